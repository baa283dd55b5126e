"""The generation server as a child process, which receives and sends JSON lines."""

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
"""Long enough to import PyTorch and the other libraries on a slow machine."""
EXIT_SECONDS = 3.0
"""Seconds that it may take to exit by itself; it does not finish its images first."""

Event = dict[str, Any]


class GenerationProcess:
    """One server process in its own session; it exits with this process, when its input ends."""

    def __init__(
        self,
        log: Path,
        on_event: Callable[["GenerationProcess", Event | None], object],
        command: Sequence[str] = COMMAND,
        is_private: bool = False,
    ) -> None:
        """Start the process.

        Args:
            log: File for its standard error, overwritten.
            on_event: Called in another thread with every event of image jobs, and with None once
                the process has ended.
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
        self._on_event = on_event
        self._writing = threading.Lock()
        self._device: Future[str] = Future()
        self._answers: dict[str, Future[Event]] = {}
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def device(self) -> str:
        """Return the device that it uses, "cuda" or "cpu"; waits until it has started.

        Raises:
            StudioError: the process does not start.
        """
        return self._result(self._device)

    def send(self, request: Event) -> bool:
        """Send one request; return False if the process has ended."""
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):  # ValueError: closed already
            return False
        return self.is_alive

    def query(self, request: Event) -> Event:
        """Send a request that is answered at once, and return the answer.

        Raises:
            StudioError: the answer is an error, or there is none in time.
        """
        name = secrets.token_hex(8)
        self._answers[name] = answer = Future()
        try:
            self.send({**request, "id": name})
            event = self._result(answer)
        finally:
            self._answers.pop(name, None)
        if event["event"] == "error":
            raise StudioError(event["error"])
        return event

    def _result(self, future: Future) -> Any:
        try:
            return future.result(ANSWER_SECONDS)
        except TooLate as error:
            raise StudioError(
                f"the generation server did not respond in {ANSWER_SECONDS:g} seconds. Try again."
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
                self._on_event(self, event)
        self._process.wait()
        error = StudioError(f"the generation server stopped: {self.describe_exit()}. Try again.")
        for future in (self._device, *list(self._answers.values())):
            if not future.done():
                future.set_exception(error)
        self._on_event(self, None)

    def describe_exit(self) -> str:
        """Describe in a few words how the process ended."""
        status = self._process.poll()
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                return f"it was killed by {signal.Signals(-status).name}"
        return f"its exit status was {status}"

    def end(self) -> None:
        """Close its input and wait for its exit; kill it if that takes too long."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError), self._writing:
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
