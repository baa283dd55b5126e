"""The queue of image jobs: visitors take turns, and one process generates the images."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nora_studio.app.server.active_image_job import ActiveImageJob
from nora_studio.app.server.generation_process import COMMAND, Event, GenerationProcess
from nora_studio.app.server.image_jobs import (
    ImageJob,
    State,
    image_job_ids,
    new_image_job,
    read_image_job,
    reset_job,
    server_request,
    trash_image_job,
    without_folder,
)
from nora_studio.app.server.round_robin_queue import RoundRobinQueue
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

WAITING_LIMIT = 10
"""Unfinished image jobs that one visitor may have."""
STORED_LIMIT = 300
"""Image jobs that one visitor may store."""
IDLE_SECONDS = 900.0
"""Seconds without a request after which the process is stopped to free its memory."""
POLL_SECONDS = 0.5
LOG = "drawing-server.log"
WAITING_FOR_TRAINING = "Waiting for the GPU: a training is using it."


class ImageQueue:
    """All image jobs of a studio; the generation server is started with the first."""

    def __init__(
        self,
        home: Path,
        is_device_busy: Callable[[], bool] = lambda: False,
        command: Sequence[str] = COMMAND,
        is_private: bool = False,
        is_allowed: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Prepare the queue; no process is started yet.

        Args:
            home: The studio's data folder.
            is_device_busy: Whether a training uses the GPU; image jobs then wait. On a CPU they do
                not.
            command: The command that starts the generation server.
            is_private: Whether only the owner reaches the studio (`limits`, `job_environment`).
            is_allowed: Whether a base of that name may be loaded.
        """
        self._is_private, self._is_allowed = is_private, is_allowed
        self._home, self._is_device_busy, self._command = home, is_device_busy, command
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: RoundRobinQueue[ActiveImageJob] = RoundRobinQueue()
        self._active: dict[tuple[Path, str], ActiveImageJob] = {}
        self._current: ActiveImageJob | None = None
        self._process: GenerationProcess | None = None
        self._device: str | None = None
        self._holds_base = False
        self._used = time.monotonic()
        self._worker: threading.Thread | None = None
        self._closed = False

    def submit(
        self, workspace: Workspace, request: Any, view: Mapping[str, Any] | None = None
    ) -> str:
        """Queue an image job and return its id.

        Args:
            request: An `ImageRequest` as JSON; adapters and photos by their paths in the workspace.
            view: Values that the page stores with it.

        Raises:
            StudioError: the request is malformed or too large, or the visitor has too many jobs.
        """
        job = new_image_job(workspace, request, view, self._is_allowed, self._is_private)
        if len(image_job_ids(workspace)) >= STORED_LIMIT:
            raise StudioError(
                f"you have {STORED_LIMIT} image jobs, which is the limit. Delete some of them."
            )
        self._put(ActiveImageJob(workspace, job))
        return job.id

    def resume(self, workspace: Workspace, name: str) -> None:
        """Generate the missing images of a job that was interrupted, cancelled or failed.

        Raises:
            StudioError: for the same reasons as `reset_job`.
        """
        with self._lock:
            if (workspace.folder, name) not in self._active:
                self._put(ActiveImageJob(workspace, reset_job(workspace, name, self._is_allowed)))

    def read(self, workspace: Workspace, name: str) -> ImageJob:
        """Return an image job with its current state.

        Raises:
            StudioError: there is no job of that id.
        """
        with self._lock:
            active = self._active.get((workspace.folder, name))
            if active is None:
                job = read_image_job(workspace, name)
                # The process that worked on it has ended.
                return replace(job, state="interrupted") if job.is_under_way else job
            if active.job.state == "waiting" and active.job.waits_for is None:
                ahead = self._queue.order().index(active) + self.is_generating
                jobs = "another image job" if ahead == 1 else f"{ahead} other image jobs"
                return replace(active.job, waits_for=f"Waiting for {jobs}." if ahead else None)
            return active.job

    def list(self, workspace: Workspace) -> list[ImageJob]:
        """Return a visitor's image jobs, newest first; damaged ones are left out."""
        jobs = []
        for name in image_job_ids(workspace):
            with contextlib.suppress(StudioError):
                jobs.append(self.read(workspace, name))
        return jobs

    def cancel(self, workspace: Workspace, name: str) -> None:
        """Cancel a job after its current image; finished images are kept."""
        with self._lock:
            active = self._active.get((workspace.folder, name))
            if active is None:
                return
            if active is self._current:
                if self._process is not None:
                    self._process.send({"do": "cancel", "id": name})
                return
            self._queue.remove(active.visitor, active)
            self._end(active, state="cancelled")

    def delete(self, workspace: Workspace, name: str) -> None:
        """Delete an image job with its images.

        Raises:
            StudioError: the job has not ended, or does not exist.
        """
        with self._lock:
            if (workspace.folder, name) in self._active:
                raise StudioError("this image job has not ended yet. Stop it first.")
            trash_image_job(workspace, name)

    def tokenize_prompt(
        self, prompt: str, model: str | None = None, rare_word: str | None = "auto"
    ) -> Event:
        """Return how both tokenizers of a base read a prompt (`sdxl.tokenization`).

        Raises:
            StudioError: the prompt cannot be tokenized, or the generation server did not respond.
        """
        request = {"do": "read", "prompt": prompt, "model": model, "rare_word": rare_word}
        with self._lock:
            process = self._running_process()
        return process.query(request)

    @property
    def is_generating(self) -> bool:
        """Whether an image job is running."""
        return self._current is not None

    @property
    def process_id(self) -> int | None:
        """The generation server's process id; None while none runs."""
        process = self._process
        return process.pid if process is not None and process.is_alive else None

    def close(self) -> None:
        """Stop the process; unfinished jobs become interrupted and can be resumed."""
        with self._changed:
            self._closed = True
            left = list(self._active.values())
            self._active.clear()
            self._queue.clear()
            self._changed.notify_all()
        for active in left:
            active.ended.set()
        self._stop_process()

    def _put(self, active: ActiveImageJob) -> None:
        with self._changed:
            own = [one for one in self._active.values() if one.visitor == active.visitor]
            if len(own) >= WAITING_LIMIT:
                raise StudioError(f"You have {WAITING_LIMIT} image jobs waiting. Stop one first.")
            active.save()
            self._active[active.visitor, active.job.id] = active
            self._queue.put(active.visitor, active)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closed:
            with self._lock:
                waiting, process = self._queue.order(), self._process
            must_wait = bool(waiting or process) and self._must_wait()
            if waiting and not must_wait:
                self._generate(waiting[0])
                continue
            with self._lock:
                for active in waiting if must_wait else ():
                    active.update(waits_for=WAITING_FOR_TRAINING)
            is_idle = time.monotonic() - self._used > IDLE_SECONDS
            if process is not None and (is_idle or (must_wait and self._holds_base)):
                self._stop_process()
            with self._changed:
                self._changed.wait(POLL_SECONDS)

    def _must_wait(self) -> bool:
        """Return whether a training uses the GPU that image jobs need."""
        if not self._is_device_busy():
            return False
        if self._device is None:
            with self._lock:
                process = self._running_process()
            with contextlib.suppress(StudioError):
                self._device = process.device()
        return self._device != "cpu"

    def _generate(self, active: ActiveImageJob) -> None:
        """Send one job to the process, and wait for its end."""
        with self._lock:
            if active not in self._queue.order():  # It was cancelled in between.
                return
            self._queue.serve(active.visitor, active)
            self._current, self._holds_base = active, True
            active.update(state="drawing", waits_for=None)
            try:
                request = server_request(active.job, active.workspace, self._is_allowed)
                # An idle process may have died unnoticed; then start another one.
                if not self._running_process().send(request):
                    self._process = None
                    self._running_process().send(request)
            except (StudioError, OSError) as error:
                self._end(active, state="failed", error=str(error))
        active.ended.wait()

    def _end(self, active: ActiveImageJob, state: State, error: str | None = None) -> None:
        error = error and without_folder(active.workspace, error)
        with self._lock:
            active.update(state=state, waits_for=None, error=error)
            self._active.pop((active.visitor, active.job.id), None)
            if self._current is active:
                self._current, self._used = None, time.monotonic()
        active.ended.set()

    def _running_process(self) -> GenerationProcess:
        if self._process is None or not self._process.is_alive:
            log = self._home / LOG
            self._process = GenerationProcess(log, self._on_event, self._command, self._is_private)
        self._used = time.monotonic()
        return self._process

    def _stop_process(self) -> None:
        """Stop the process until the next request."""
        with self._lock:
            process, self._process, self._holds_base = self._process, None, False
        if process is not None:
            process.end()

    def _on_event(self, process: GenerationProcess, event: Event | None) -> None:
        """Handle an event of the process about the current job, in the listening thread."""
        with self._lock:
            active = self._current
            if active is None or process is not self._process:
                return
            if event is None:
                reason = (
                    f"The generation server stopped: {process.describe_exit()}. Press Resume to "
                    "generate the missing images."
                )
                self._process = None
                self._end(active, state="failed", error=reason)
            elif event.get("id") == active.job.id:
                self._apply(active, event)

    def _apply(self, active: ActiveImageJob, event: Event) -> None:
        active.add_warnings(event.get("warnings", ()))
        kind = event["event"]
        if kind == "picture":
            active.record_image(event)
        elif kind in ("scores", "unscored"):
            active.record_scores(event)
        elif kind == "done":
            self._end(active, state="finished")
        elif kind == "cancelled":
            self._end(active, state="cancelled")
        elif kind == "error":
            self._end(active, state="failed", error=event["error"])
