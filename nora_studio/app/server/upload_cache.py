"""The owners of uploads: Gradio stores all in one folder, and serves them to any visitor."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from nora_studio.app.server.request_body import TooLarge
from nora_studio.errors import StudioError

UPLOADS = "uploads"
"""Folder in the studio's data folder."""
KEPT_SECONDS = 6 * 3600
"""Uploads are copied into the visitor's workspace at once, so older files are leftovers."""
MAX_PENDING_BYTES = 6 * 1024**3
"""Bytes that a visitor's uploads may use before they are cleared."""
ABANDONED_SECONDS = 120.0
"""A file without a write for this long belongs to a request that was refused: a stalled body is cut
off sooner (`request_body.IDLE_SECONDS`)."""


class UploadReservation:
    """Space that is reserved for the files of one request."""

    def __init__(self, cache: "UploadCache", visitor: str, room: int) -> None:
        self._cache, self._visitor, self._room = cache, visitor, room
        self._taken = 0
        self.reserved = 0
        """Bytes that are reserved."""

    def expect(self, stated: int) -> None:
        """Reserve the length that the request states, before any of it is read.

        Raises:
            TooLarge: the visitor's uploads have no room for it.
        """
        if stated > self.reserved:
            self._cache._reserve(self._visitor, stated - self.reserved, self._room)
            self.reserved = stated

    def add(self, count: int) -> None:
        """Count a chunk that has arrived.

        Raises:
            TooLarge: the visitor's uploads have no room for it.
        """
        self._taken += count
        self.expect(self._taken)


class UploadCache:
    """Gradio's folder of uploads, and the visitors that own each file in it."""

    def __init__(self, home: Path) -> None:
        """Create the folder, private to this user, and clear what an earlier server left in it."""
        self.folder = (home / UPLOADS).resolve()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        # Gradio names files by content, so two visitors may own the same one.
        self._owners: dict[Path, set[str]] = {}
        self._sizes: dict[Path, int] = {}
        self._reserved: dict[str, int] = {}
        self._lock = threading.Lock()
        self.clear_old(KEPT_SECONDS)

    def set_gradio_folder(self) -> None:
        """Make Gradio store uploads here; it reads the setting when its blocks are made."""
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)

    def record(self, visitor: str, path: str) -> None:
        """Record that a visitor has uploaded a file."""
        file = self._resolve(path)
        if file is not None:
            with self._lock:
                self._owners.setdefault(file, set()).add(visitor)
                self._sizes[file] = _size(file)

    def belongs(self, visitor: str, path: str) -> bool:
        """Return whether a visitor has uploaded the file of that path."""
        file = self._resolve(path)
        with self._lock:
            return file is not None and visitor in self._owners.get(file, ())

    def claim(self, visitor: str, path: str) -> Path:
        """Return the file behind a path that a handler was given.

        Raises:
            StudioError: this visitor did not upload it, or it has been cleared.
        """
        file = self._resolve(path)
        if file is None or not self.belongs(visitor, path) or not file.is_file():
            raise StudioError("this upload has expired. Choose the file again.")
        return file

    def release(self, visitor: str, path: str) -> None:
        """Forget an upload that has been copied; delete the file if no other visitor owns it."""
        file = self._resolve(path)
        with self._lock:
            owners = self._owners.get(file, set()) if file is not None else set()
            owners.discard(visitor)
            if file is None or owners:
                return
            self._owners.pop(file, None)
            self._sizes.pop(file, None)
        _remove(file)

    def _pending_bytes(self, visitor: str) -> int:
        mine = (file for file, owners in self._owners.items() if visitor in owners)
        return sum(self._sizes[file] for file in mine)

    @contextlib.contextmanager
    def reserve(self, visitor: str, room: int) -> Iterator["UploadReservation"]:
        """Reserve space for one request's files while they arrive.

        Args:
            room: Bytes that all of the visitor's uploads in progress may use.
        """
        reservation = UploadReservation(self, visitor, room)
        try:
            yield reservation
        finally:
            self._reserve(visitor, -reservation.reserved, None)

    def _reserve(self, visitor: str, more: int, room: int | None) -> None:
        """Change the reserved bytes of a visitor; simultaneous requests see each other's."""
        with self._lock:
            held = self._reserved.get(visitor, 0) + more
            if room is not None:
                pending = MAX_PENDING_BYTES - self._pending_bytes(visitor)
                left = max(0, min(room, pending))
                if held > left:
                    remedy = (
                        "Wait for your other uploads"
                        if pending < room
                        else "Delete runs or images that you no longer need"
                    )
                    raise TooLarge(
                        f"These files and your other uploads are {held / 1e6:.1f} MB; there is "
                        f"room for {left / 1e6:.1f} MB. {remedy}, or send fewer files."
                    )
            self._reserved[visitor] = held
            if held <= 0:
                del self._reserved[visitor]

    def clear_old(self, seconds: float) -> None:
        """Remove files that are older than so many seconds, and abandoned ones."""
        limit = time.time() - seconds
        for file in [path for path in self.folder.rglob("*") if not path.is_dir()]:
            with contextlib.suppress(OSError):
                if file.lstat().st_mtime < limit:
                    _remove(file)
        # Files directly in the folder are being written, or are left from a cut-off upload.
        for file in self.folder.iterdir():
            with contextlib.suppress(OSError):
                is_left = file.is_file() and file.stat().st_mtime < time.time() - ABANDONED_SECONDS
                if is_left:
                    _remove(file)
        with self._lock:
            gone = [file for file in self._owners if not file.exists()]
            for file in gone:
                del self._owners[file]
                self._sizes.pop(file, None)

    def _resolve(self, path: str) -> Path | None:
        """Resolve a path, links followed; return None if it is outside the folder."""
        try:
            file = Path(path).resolve()
        except (OSError, ValueError):
            return None
        return file if file.is_relative_to(self.folder) and file != self.folder else None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    """Remove a file and the folder that Gradio made for it."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if file.parent.name != UPLOADS:
            file.parent.rmdir()  # Fails unless it is empty.
