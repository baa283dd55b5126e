"""The queue of visitors' commands, which run one at a time on each device.

A job is a folder, `<home>/jobs/<id>/`: `job.json` (the command), `process.json` (its process),
`output.log` and `exit.json` (its exit status). Nothing else is stored, so if the server is killed,
the next one continues the same queue; running jobs are not its children and continue.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import psutil

from nora_studio.app.server import job_files, job_process
from nora_studio.app.server.job import ENDED, MEASURES, Job, State
from nora_studio.app.server.job_environment import job_environment
from nora_studio.app.server.quota import check_room, remaining_bytes
from nora_studio.app.server.round_robin_queue import RoundRobinQueue
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.paths import check_text, confining
from nora_studio.runs.atomic import replacing, write_text
from nora_studio.runs.process_id import ProcessId
from nora_studio.runs.stop import SIGNALS

STOPPED = {128 + number for number in SIGNALS}
JOB, CANCELLED = "job.json", "cancelled.json"
WAITING_LIMIT = 10
"""Jobs that one visitor may have in the queue."""
CLAIM_SECONDS = 10.0
"""Seconds that a job that was just started may take to write `process.json`."""
TAIL_BYTES, OUTPUT_BYTES = 64 * 1024, 100_000
PROJECT = Path(__file__).parents[3]
"""The folder that contains the package."""
SECRET_GONE = "the studio was restarted and no longer has your token. Enter it again."


class Jobs:
    """All jobs of a studio, which it starts in turn.

    Only one process at a time may use a studio's jobs; it calls `tick` about once a second.
    """

    def __init__(
        self, home: Path, devices: int = 0, parallel_jobs: int = 2, is_private: bool = False
    ) -> None:
        """Open the queue in a studio's data folder.

        Args:
            devices: Number of GPUs; each runs one job at a time. 0: the CPU, one job at a time.
            parallel_jobs: Number of jobs without a device that run at a time.
            is_private: Whether only the owner reaches the studio (`job_environment`).
        """
        self.home, self.folder = home, home / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.devices, self.parallel_jobs, self.is_private = devices, parallel_jobs, is_private
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._secrets: dict[str, dict[str, str]] = {}
        self._known: dict[str, Job] = {}
        self._ended: dict[str, State] = {}
        self._starts: dict[str, float] = {}
        self._lock = threading.RLock()

    def submit(
        self,
        workspace: Workspace,
        kind: str,
        title: str,
        command: Sequence[str],
        shown: str,
        runs: Sequence[str] = (),
        uses_device: bool = True,
        secret: Mapping[str, str] | None = None,
        writes: int = 0,
    ) -> Job:
        """Queue a command, which runs in the visitor's folder.

        Args:
            secret: Environment variables for this job alone, which are never stored.
            writes: See `Job.writes`.

        Raises:
            StudioError: the visitor has too many waiting, one that writes the same run, or no room;
                or an argument is not allowed in a command.
        """
        for word in command:
            check_text(word, "the command")
        with self._lock:
            pending = [job for job in self.list_jobs(workspace) if self.state(job) not in ENDED]
            if len([job for job in pending if self.state(job) == "waiting"]) >= WAITING_LIMIT:
                raise StudioError(f"{WAITING_LIMIT} of your jobs are waiting. Stop one first.")
            for job in pending:
                if set(job.runs) & set(runs):
                    raise StudioError(
                        f"{job.title} is {self.state(job)} already. Wait until it ends, or stop it."
                    )
            promised = sum(remaining_bytes(workspace, job.writes, job.runs) for job in pending)
            check_room(workspace, remaining_bytes(workspace, writes, runs), promised=promised)
            job = Job(
                id=f"{time.time_ns():020d}-{secrets.token_hex(8)}",
                visitor=workspace.folder.name,
                kind=kind,
                title=title,
                command=tuple(command),
                shown=shown,
                runs=tuple(runs),
                uses_device=uses_device,
                needs_secret=bool(secret),
                writes=writes,
            )
            if secret:
                self._secrets[job.id] = dict(secret)
            with replacing(self.folder / job.id) as fresh:
                write_text(fresh / JOB, json.dumps(asdict(job), indent=1) + "\n", durable=True)
            self.tick()
        return job

    def list_jobs(self, workspace: Workspace) -> list[Job]:
        """Return a visitor's jobs, oldest first."""
        return [job for job in self._all() if job.visitor == workspace.folder.name]

    def find(self, workspace: Workspace, job_id: str) -> Job:
        """Return one of a visitor's jobs.

        Raises:
            StudioError: the visitor has no job of that id.
        """
        for job in self.list_jobs(workspace):
            if job.id == job_id:
                return job
        raise StudioError("there is no such job here. It may have been deleted.")

    def find_by_run(self, workspace: Workspace, run: str) -> Job | None:
        """Return the newest job that writes a run."""
        return next((job for job in reversed(self.list_jobs(workspace)) if run in job.runs), None)

    def _all(self) -> list[Job]:
        with self._lock:
            names = sorted(folder.name for folder in self.folder.iterdir())
            for name in names:
                facts = {} if name in self._known else job_files.read_json(self.folder / name / JOB)
                if facts:
                    facts |= {word: tuple(facts[word]) for word in ("command", "runs")}
                    self._known[name] = Job(**facts)
            return [self._known[name] for name in names if name in self._known]

    def state(self, job: Job) -> State:
        """Return a job's state; a process that ended without an exit status was killed: failed."""
        if job.id not in self._ended:
            state = self._state_of(job)
            if state not in ENDED:
                return state
            self._ended[job.id] = state
        return self._ended[job.id]

    def _state_of(self, job: Job) -> State:
        folder = self.folder / job.id
        if (folder / CANCELLED).exists():
            return "cancelled"
        alive = self._is_alive(job)  # Checked before the exit status: it may end in between.
        ended = job_files.read_json(folder / job_process.EXIT)
        if ended:
            status = ended["status"]
            return "finished" if status == 0 else "stopped" if status in STOPPED else "failed"
        if alive:
            return "running"
        return "failed" if (folder / job_process.PROCESS).exists() else "waiting"

    def _is_alive(self, job: Job) -> bool:
        process = self._children.get(job.id)
        if process is not None:
            return process.poll() is None
        process_id = self._process_id(job)
        return process_id is not None and process_id.is_alive()

    def _process_id(self, job: Job) -> ProcessId | None:
        return job_files.read_process(self.folder / job.id / job_process.PROCESS)

    def status(self, job: Job) -> int | None:
        """Return the exit status of an ended job; None while it runs, or where it was killed."""
        return job_files.read_json(self.folder / job.id / job_process.EXIT).get("status")

    def count_ahead(self, job: Job) -> int:
        """Return how many jobs are ahead of a waiting one."""
        _, waiting = self._pool(job.uses_device)
        return waiting.index(job) if job in waiting else 0

    def _pool(self, uses_device: bool) -> tuple[list[Job], list[Job]]:
        """Return the running jobs with (or without) a device, and the waiting ones in order."""
        queue: RoundRobinQueue[Job] = RoundRobinQueue()
        turns: list[tuple[bool, float, Job]] = []
        for job in self._all():
            if job.uses_device != uses_device:
                continue
            state = self.state(job)
            if state == "waiting":
                queue.put(job.visitor, job)
            elif self._started(job):
                turns.append((state == "running", self._started(job), job))
        # A turn lasts as long as its job: visitors without a running job are served first.
        for _, _, job in sorted(turns, key=lambda turn: turn[:2]):
            queue.count_turn(job.visitor)
        return [job for is_running, _, job in turns if is_running], queue.order()

    def _started(self, job: Job) -> float:
        """Return when a job was started, in seconds since 1970; 0: never."""
        if job.id not in self._starts:
            process_id = self._process_id(job)
            self._starts[job.id] = 0.0 if process_id is None else process_id.started
        return self._starts[job.id]

    def is_device_busy(self) -> bool:
        """Return whether a job that uses the device is running."""
        return any(job.uses_device and self.state(job) == "running" for job in self._all())

    def output(self, job: Job, most_bytes: int = OUTPUT_BYTES) -> str:
        """Return a job's output, or the end of it, without the server's own folders."""
        text = job_files.read_output(self.folder / job.id / job_process.OUTPUT, most_bytes)
        for folder in (self.home / "visitors" / job.visitor, self.home, PROJECT):
            text = text.replace(f"{folder}/", "").replace(str(folder), "")
        return text

    def tail(self, job: Job, lines: int = 40) -> list[str]:
        """Return the last lines of a job's output as a terminal shows them: progress bars once."""
        return job_files.terminal_lines(self.output(job, TAIL_BYTES))[-lines:]

    def stop(self, job: Job) -> None:
        """Cancel a waiting job; make a running one save and stop."""
        with self._lock:
            if self.state(job) == "waiting":
                write_text(self.folder / job.id / CANCELLED, "{}\n")
        deadline = time.monotonic() + CLAIM_SECONDS
        while self.state(job) == "running":
            process_id = self._process_id(job)
            if process_id is not None:
                os.kill(process_id.pid, signal.SIGTERM)
            if process_id is not None or time.monotonic() > deadline:
                return
            time.sleep(0.02)  # Just started: it has not written its process id yet.

    def kill(self, job: Job) -> None:
        """Kill a running job at once, without saving."""
        process_id = self._process_id(job)
        if self.state(job) == "running" and process_id is not None:
            for process in psutil.Process(process_id.pid).children(recursive=True):
                process.kill()

    def forget(self, workspace: Workspace, run: str) -> None:
        """Delete the ended jobs that wrote a run, with their output."""
        for job in self.list_jobs(workspace):
            if run in job.runs and self.state(job) in ENDED:
                shutil.rmtree(self.folder / job.id)

    def tick(self) -> None:
        """Start the waiting jobs whose turn it is."""
        with self._lock:
            for job_id, process in list(self._children.items()):
                if process.poll() is not None:
                    del self._children[job_id]
                    if not (self.folder / job_id / job_process.PROCESS).exists():
                        # It could not claim the job: the disk is full.
                        self._ended[job_id] = "failed"
            for uses_device, room in ((True, max(1, self.devices)), (False, self.parallel_jobs)):
                running, waiting = self._pool(uses_device)
                for job in waiting[: max(0, room - len(running))]:
                    self._start(job, self._untaken_device(running))
                    running.append(job)

    def _untaken_device(self, running: Sequence[Job]) -> int:
        taken = {
            job_files.read_json(self.folder / job.id / job_process.PROCESS).get("device")
            for job in running
        }
        return next(number for number in range(len(running) + 1) if number not in taken)

    def _start(self, job: Job, device: int) -> None:
        folder = self.folder / job.id
        workspace = Workspace.open(self.home, job.visitor)
        secret = self._secrets.pop(job.id, {})
        if job.needs_secret and not secret:
            # It must not run with the server's own token instead.
            write_text(folder / job_process.OUTPUT, f"error: {SECRET_GONE}\n")
            write_text(folder / job_process.EXIT, '{"status": 2}\n')
            return
        environment = job_environment(self.home, self.is_private, secret)
        environment |= confining([workspace.folder, self.home / MEASURES])
        if self.devices > 1 and job.uses_device:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        self._starts[job.id] = time.time()
        place = workspace.folder
        self._children[job.id] = job_process.start(folder, device, place, job.command, environment)
