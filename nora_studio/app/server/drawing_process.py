"""The drawing server as a process: started when it is needed, asked and heard in JSON lines."""

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path
from typing import Any

from nora_studio.app.server.job_environment import job_environment
from nora_studio.errors import StudioError

COMMAND = (sys.executable, "-m", "nora_studio.cli", "draw-server")
ANSWER_SECONDS = 90.0
"""Python, PyTorch and the libraries are imported within, on a slow machine."""
PATIENCE_SECONDS = 3.0
"""How long it may take to end by itself; pictures at work are not waited for."""

Event = dict[str, Any]


class DrawingProcess:
    """One such process, in a session of its own; it ends when we do, for its input ends then."""

    def __init__(
        self,
        log: Path,
        hear: Callable[["DrawingProcess", Event | None], object],
        command: Sequence[str] = COMMAND,
        is_private: bool = False,
    ) -> None:
        """Start it.

        Args:
            log: File for what it says beside its events, written anew.
            hear: Called in a thread of ours with every event of drawings, and with None once it
                has ended.
            is_private: Whether only the owner reaches the studio (`job_environment`).
        """
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                encoding="utf-8",
                env=job_environment(log.parent, is_private),
                start_new_session=True,
            )
        self._hear = hear
        self._writing = threading.Lock()
        self._device: Future[str] = Future()
        self._answers: dict[str, Future[Event]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def device(self) -> str:
        """Where it draws, "cuda" or "cpu"; waited for while it starts.

        Raises:
            StudioError: it does not start.
        """
        return self._within(self._device)

    def ask(self, asked: Event) -> bool:
        """Send one request; False if nobody is there to take it."""
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(json.dumps(asked) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):  # ValueError: closed already
            return False
        return self.is_alive

    def answer(self, asked: Event) -> Event:
        """Ask what is answered at once, and wait for it.

        Raises:
            StudioError: the answer is an error, or none came.
        """
        name = secrets.token_hex(8)
        self._answers[name] = answer = Future()
        try:
            self.ask({**asked, "id": name})
            event = self._within(answer)
        finally:
            self._answers.pop(name, None)
        if event["event"] == "error":
            raise StudioError(event["error"])
        return event

    def _within(self, future: Future) -> Any:
        try:
            return future.result(ANSWER_SECONDS)
        except TooLate as error:
            raise StudioError(
                f"the drawing server gave no answer in {ANSWER_SECONDS:g} seconds. Try again."
            ) from error

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                continue
            answer = self._answers.get(event.get("id"))
            if answer is not None:
                answer.set_result(event)
            elif event.get("event") == "ready":
                self._device.set_result(event["device"])
            else:
                self._hear(self, event)
        self._process.wait()
        gone = StudioError(f"the drawing server stopped: {self.how_it_ended()}. Try again.")
        for future in (self._device, *list(self._answers.values())):
            if not future.done():
                future.set_exception(gone)
        self._hear(self, None)

    def how_it_ended(self) -> str:
        """A few words on its end."""
        status = self._process.poll()
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                return f"it was killed by {signal.Signals(-status).name}"
        return f"its exit status was {status}"

    def end(self) -> None:
        """End it: politely, then at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._writing:
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
