"""A visitor's own folder, which holds all their uploads, runs and images."""

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from nora_studio.adapters.files.adapter_file import embeddings_path
from nora_studio.app.server.limits import QUOTA_BYTES
from nora_studio.errors import StudioError
from nora_studio.options.paths import check_inside, is_reserved
from nora_studio.runs.runs import Run

FILES_ROUTE = "/files/"
"""URL prefix of a visitor's own files; the cookie identifies the visitor."""
NAME_LENGTH = 48
_NAME = re.compile(r"[a-z0-9][a-z0-9_+-]*")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
"""owner/name."""
_VISITOR = re.compile(r"[0-9a-f]{32}")


def safe_name(text: str, fallback: str = "subject") -> str:
    """Return a text as a folder name of lower-case letters, digits and single hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain)[:NAME_LENGTH].strip("-")
    return f"{words}-{fallback}" if is_reserved(words) else words or fallback


def check_name(name: str) -> str:
    """Refuse any name that neither `safe_name` nor the trainer (for a run) could have produced.

    Raises:
        StudioError: the name is not allowed, for example because it could be a path or a flag.
    """
    if not isinstance(name, str) or len(name) > NAME_LENGTH or not _NAME.fullmatch(name):
        raise StudioError(
            f"expected a name of lower-case letters, digits and hyphens; got {str(name)[:80]!r}."
        )
    if is_reserved(name):
        raise StudioError(f"Windows reserves the name {name!r} for a device; choose another one.")
    return name


@dataclass(frozen=True)
class Workspace:
    """One visitor's folder. Commands run in it and name its files by relative paths."""

    folder: Path
    quota: int = QUOTA_BYTES
    """Bytes that it may hold."""

    @classmethod
    def open(cls, home: Path, visitor: str, quota: int = QUOTA_BYTES) -> "Workspace":
        """Return the folder of a visitor, created on first use.

        Args:
            home: The studio's data folder.
            visitor: 32 hexadecimal digits, a digest of the browser's secret or the account's name.
            quota: Bytes that it may hold.
        """
        if not _VISITOR.fullmatch(visitor):
            raise StudioError("expected a visitor's 32 hexadecimal digits.")
        workspace = cls(home / "visitors" / visitor, quota)
        for folder in ("photos", "runs", "pictures", "adapters"):
            (workspace.folder / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        return workspace

    @property
    def photos(self) -> Path:
        """One folder of photos for each subject."""
        return self.folder / "photos"

    @property
    def runs(self) -> Path:
        """The run folders."""
        return self.folder / "runs"

    @property
    def pictures(self) -> Path:
        """One folder for each image job."""
        return self.folder / "pictures"

    @property
    def adapters(self) -> Path:
        """Adapter files that were uploaded, exported or mixed."""
        return self.folder / "adapters"

    def run(self, name: str) -> Run:
        """Return one of the visitor's runs.

        Raises:
            StudioError: there is no run of that name, or a link leads out of the workspace.
        """
        run = Run(self.runs / check_name(name))
        if not run.exists:
            raise StudioError(f"there is no run {name!r} here. It may have been deleted.")
        check_inside(self.folder, f"runs/{name}", "this run")
        return run

    def own_file(self, relative: str) -> Path:
        """Return a file of the visitor's by its path in the workspace.

        Raises:
            StudioError: the path leads out of the workspace, links followed, or does not exist.
        """
        try:
            file = check_inside(self.folder, relative, "this file")
        except StudioError:
            file = self.folder
        if not file.is_file():
            raise StudioError(f"there is no file {relative[:200]!r} here.")
        return file

    def adapter(self, relative: str) -> Path:
        """Return a run, checkpoint or adapter file of the visitor's by its path in the workspace.

        Raises:
            StudioError: it, or a file that is read with it, is outside of the workspace, links
                followed; or it does not exist.
        """
        try:
            path = check_inside(self.folder, relative, "this adapter")
            if path.is_file():  # New tokens are loaded from a file next to it.
                tokens = embeddings_path(path).relative_to(self.folder.resolve())
                check_inside(self.folder, tokens, "this adapter")
        except StudioError:
            path = self.folder
        homes = [folder.resolve() for folder in (self.runs, self.adapters)]
        is_own = any(path.is_relative_to(home) and path != home for home in homes)
        if not is_own or not path.exists():
            raise StudioError(
                f"there is no adapter {str(relative)[:200]!r} here. It may have been deleted."
            )
        return path

    def check_model(self, name: str) -> None:
        """Refuse a model's name that is a link out of this folder.

        A command looks for a folder of that name where it runs before it queries the Hub.

        Raises:
            StudioError: the name is a link that leads out.
        """
        name = name.removeprefix("local-dir:")
        if name and not Path(name).is_absolute() and (self.folder / name).exists():
            check_inside(self.folder, name, "the model")

    def url(self, file: Path) -> str:
        """Return the URL of one of the visitor's files; a new version of it has a new URL."""
        relative = file.relative_to(self.folder).as_posix()
        return f"{FILES_ROUTE}{quote(relative)}?v={file.stat().st_mtime_ns:x}"
