"""Drawings that visitors asked for: queued fairly, drawn by one process, found again in files."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nora_studio.app.server.drawing_process import COMMAND, DrawingProcess, Event
from nora_studio.app.server.image_jobs import (
    Sheet,
    State,
    discard_sheet,
    for_the_server,
    new_sheet,
    read_sheet,
    sheet_names,
    waiting_again,
    without_folder,
)
from nora_studio.app.server.live_sheet import LiveSheet
from nora_studio.app.server.round_robin_queue import RoundRobinQueue
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

WAITING_LIMIT = 10
"""Drawings that one visitor may have under way."""
SHEETS_LIMIT = 300
"""Drawings that one visitor may keep."""
IDLE_SECONDS = 900.0
"""After so long without a request, the process gives its memory back."""
GLANCE_SECONDS = 0.5
LOG = "drawing-server.log"
BEHIND_TRAINING = "Waiting for the GPU: a training is using it."


class Drawings:
    """All drawings of a studio; the drawing server is started with the first."""

    def __init__(
        self,
        home: Path,
        busy: Callable[[], bool] = lambda: False,
        command: Sequence[str] = COMMAND,
        is_private: bool = False,
        is_allowed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Be ready; nothing is started yet.

        Args:
            home: The studio's data folder.
            busy: Whether a training holds the GPU; drawings then wait. On a CPU they go on.
            command: Starts the drawing server.
            is_private: Whether only the owner reaches the studio (`limits`, `job_environment`).
            is_allowed: Whether a base of that name may be loaded.
        """
        self._is_private, self._is_allowed = is_private, is_allowed
        self._home, self._busy, self._command = home, busy, command
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._line: RoundRobinQueue[LiveSheet] = RoundRobinQueue()
        self._live: dict[tuple[Path, str], LiveSheet] = {}
        self._current: LiveSheet | None = None
        self._process: DrawingProcess | None = None
        self._device: str | None = None
        self._holds_base = False
        self._used = time.monotonic()
        self._worker: threading.Thread | None = None
        self._closed = False

    def submit(
        self, workspace: Workspace, asked: Any, view: Mapping[str, Any] | None = None
    ) -> str:
        """Put a drawing into the queue; give back its id.

        Args:
            asked: A `DrawingRequest` as JSON; adapters and photos by their paths in the workspace.
            view: Kept beside it, for the page.

        Raises:
            StudioError: it is malformed or too large, or the visitor has too many.
        """
        sheet = new_sheet(workspace, asked, view, self._is_allowed, self._is_private)
        if len(sheet_names(workspace)) >= SHEETS_LIMIT:
            raise StudioError(
                f"you have {SHEETS_LIMIT} drawings, as many as are kept. Delete some to draw more."
            )
        self._put(LiveSheet(workspace, sheet))
        return sheet.id

    def go_on(self, workspace: Workspace, name: str) -> None:
        """Draw what is missing of a drawing that was interrupted, cancelled or failed.

        Raises:
            StudioError: as `waiting_again`.
        """
        with self._lock:
            if (workspace.folder, name) not in self._live:
                self._put(LiveSheet(workspace, waiting_again(workspace, name, self._is_allowed)))

    def read(self, workspace: Workspace, name: str) -> Sheet:
        """A drawing as it stands.

        Raises:
            StudioError: there is none of that id.
        """
        with self._lock:
            live = self._live.get((workspace.folder, name))
            if live is None:
                sheet = read_sheet(workspace, name)
                # Whoever drew it is no more.
                return replace(sheet, state="interrupted") if sheet.is_under_way else sheet
            if live.sheet.state == "waiting" and live.sheet.waits_for is None:
                before = self._line.order().index(live) + self.is_drawing
                what = "another drawing" if before == 1 else f"{before} other drawings"
                return replace(live.sheet, waits_for=f"Waiting for {what}." if before else None)
            return live.sheet

    def list(self, workspace: Workspace) -> list[Sheet]:
        """A visitor's drawings, the newest first; damaged ones are left out."""
        sheets = []
        for name in sheet_names(workspace):
            with contextlib.suppress(StudioError):
                sheets.append(self.read(workspace, name))
        return sheets

    def cancel(self, workspace: Workspace, name: str) -> None:
        """End a drawing after the picture at work; what is drawn stays."""
        with self._lock:
            live = self._live.get((workspace.folder, name))
            if live is None:
                return
            if live is self._current:
                if self._process is not None:
                    self._process.ask({"do": "cancel", "id": name})
                return
            self._line.remove(live.visitor, live)
            self._end(live, state="cancelled")

    def throw_away(self, workspace: Workspace, name: str) -> None:
        """Delete a drawing with its pictures.

        Raises:
            StudioError: it is under way, or there is none.
        """
        with self._lock:
            if (workspace.folder, name) in self._live:
                raise StudioError("this drawing has not ended yet. Stop it first.")
            discard_sheet(workspace, name)

    def read_as_tokens(
        self, prompt: str, model: str | None = None, rare_word: str | None = "auto"
    ) -> Event:
        """How both tokenizers of a base read a prompt (`readings.read_as_tokens`).

        Raises:
            StudioError: as there, or no answer came.
        """
        asked = {"do": "read", "prompt": prompt, "model": model, "rare_word": rare_word}
        with self._lock:
            process = self._started()
        return process.answer(asked)

    @property
    def is_drawing(self) -> bool:
        """Whether pictures are drawn at this moment."""
        return self._current is not None

    @property
    def process_id(self) -> int | None:
        """Of the drawing server; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive else None

    def close(self) -> None:
        """End the process; drawings under way are found interrupted, and can go on."""
        with self._changed:
            self._closed = True
            left = list(self._live.values())
            self._live.clear()
            self._line.clear()
            self._changed.notify_all()
        for live in left:
            live.ended.set()
        self._rest()

    def _put(self, live: LiveSheet) -> None:
        with self._changed:
            own = [one for one in self._live.values() if one.visitor == live.visitor]
            if len(own) >= WAITING_LIMIT:
                raise StudioError(
                    f"{WAITING_LIMIT} of your drawings are waiting already. Stop one first."
                )
            live.begin()
            self._live[live.visitor, live.sheet.id] = live
            self._line.put(live.visitor, live)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                line, process = self._line.order(), self._process
            must_wait = bool(line or process) and self._must_wait()
            if line and not must_wait:
                self._draw(line[0])
                continue
            with self._lock:
                for live in line if must_wait else ():
                    live.change(waits_for=BEHIND_TRAINING)
            is_idle = time.monotonic() - self._used > IDLE_SECONDS
            if process is not None and (is_idle or (must_wait and self._holds_base)):
                self._rest()
            with self._changed:
                self._changed.wait(GLANCE_SECONDS)

    def _must_wait(self) -> bool:
        """Whether a training holds the GPU that drawings would need."""
        if not self._busy():
            return False
        if self._device is None:
            with self._lock:
                process = self._started()
            with contextlib.suppress(StudioError):
                self._device = process.device()
        return self._device != "cpu"

    def _draw(self, live: LiveSheet) -> None:
        """Have one drawing drawn, and wait for its end."""
        with self._lock:
            if live not in self._line.order():  # cancelled meanwhile
                return
            self._line.serve(live.visitor, live)
            self._current, self._holds_base = live, True
            live.change(state="drawing", waits_for=None)
            try:
                asked = for_the_server(live.sheet, live.workspace, self._is_allowed)
                # One that died in its sleep takes no request: the next one does.
                if not self._started().ask(asked):
                    self._process = None
                    self._started().ask(asked)
            except (StudioError, OSError) as error:
                self._end(live, state="failed", error=str(error))
        live.ended.wait()

    def _end(self, live: LiveSheet, state: State, error: str | None = None) -> None:
        if error is not None:
            error = without_folder(live.workspace, error)
        with self._lock:
            live.change(state=state, waits_for=None, error=error)
            self._live.pop((live.visitor, live.sheet.id), None)
            if self._current is live:
                self._current, self._used = None, time.monotonic()
        live.ended.set()

    def _started(self) -> DrawingProcess:
        if self._process is None or not self._process.is_alive:
            log = self._home / LOG
            self._process = DrawingProcess(log, self._hear, self._command, self._is_private)
        self._used = time.monotonic()
        return self._process

    def _rest(self) -> None:
        """Let the process go until the next request."""
        with self._lock:
            process, self._process, self._holds_base = self._process, None, False
        if process is not None:
            process.end()

    def _hear(self, process: DrawingProcess, event: Event | None) -> None:
        """Take what the process tells of the drawing at work, in its thread."""
        with self._lock:
            live = self._current
            if live is None or process is not self._process:
                return
            if event is None:
                how = (
                    f"The drawing server stopped: {process.how_it_ended()}. Press Go on to draw "
                    "the missing pictures."
                )
                self._process = None
                self._end(live, state="failed", error=how)
            elif event.get("id") == live.sheet.id:
                self._follow(live, event)

    def _follow(self, live: LiveSheet, event: Event) -> None:
        live.warn(event.get("warnings", ()))
        sheet, kind = live.sheet, event["event"]
        if kind == "picture":
            place = (event["column"], event["prompt"], event["seed"])
            words = {event["column"]: event["trigger"]} if event["trigger"] else {}
            files = {**sheet.files, place: event["file"]}
            scoring = sheet.awaits_scores and len(files) == sheet.request.count
            state = "scoring" if scoring else "drawing"
            live.change(state=state, files=files, words={**sheet.words, **words})
        elif kind in ("scores", "unscored"):
            live.take_scores(event)
        elif kind == "done":
            self._end(live, state="finished")
        elif kind == "cancelled":
            self._end(live, state="cancelled")
        elif kind == "error":
            self._end(live, state="failed", error=event["error"])
