"""Commands that visitors asked for: queued, run one at a time for each device, and found again.

A job is a folder, `<home>/jobs/<id>/`: `job.json` (what was asked), `process.json` (who runs it),
`output.log` and `exit.json` (how it ended). Nothing else is remembered, so whatever happens to the
server, the next one goes on with the same queue; jobs at work are not its children and live on.
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

from nora_studio.app.server import child
from nora_studio.app.server.job import ENDED, Job, State, read_facts, read_output, shown_lines
from nora_studio.app.server.job_environment import job_environment
from nora_studio.app.server.quota import check_room, still_to_write
from nora_studio.app.server.round_robin_queue import RoundRobinQueue
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.paths import check_text, confining
from nora_studio.runs.atomic import replacing, write_text
from nora_studio.runs.liveness import ProcessMark, host_name
from nora_studio.runs.stop import SIGNALS

STOPPED = {128 + number for number in SIGNALS}
JOB, CANCELLED = "job.json", "cancelled.json"
MEASURES = "measures"
"""The folder beside the jobs that preflights write their figures to."""
WAITING_LIMIT = 10
"""Jobs that one visitor may have in the queue."""
CLAIM_SECONDS = 10.0
"""How long a job that was just started may take to say who runs it."""
TAIL_BYTES = 64 * 1024
OUTPUT_BYTES = 100_000
PROJECT = Path(__file__).parents[3]
"""Where the package lies."""
SECRET_GONE = "the studio was restarted and no longer has your token. Enter it again."


class Jobs:
    """All jobs of a studio, and the hands that start them.

    One process at a time may hold a studio's jobs; `tick` is called about once a second.
    """

    def __init__(
        self, home: Path, devices: int = 0, hands: int = 2, is_private: bool = False
    ) -> None:
        """Open the queue in a studio's data folder.

        Args:
            devices: GPUs; each takes a job of its own. 0: the CPU, one job at a time.
            hands: Jobs at a time that use no device.
            is_private: Whether only the owner reaches the studio (`job_environment`).
        """
        self.home, self.folder = home, home / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.devices, self.hands, self.is_private = devices, hands, is_private
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
        """Put a command into the queue; it runs in the visitor's folder.

        Args:
            secret: Environment variables for it alone, which are written nowhere.
            writes: As `Job.writes`.

        Raises:
            StudioError: the visitor has too many waiting, one that writes the same run, or no room;
                or no process can be started with such a word.
        """
        for word in command:
            check_text(word, "the command")
        with self._lock:
            pending = [job for job in self.of(workspace) if self.state(job) not in ENDED]
            if len([job for job in pending if self.state(job) == "waiting"]) >= WAITING_LIMIT:
                raise StudioError(
                    f"{WAITING_LIMIT} of your jobs are waiting already. Stop one of them first."
                )
            for job in pending:
                if set(job.runs) & set(runs):
                    raise StudioError(
                        f"{job.title} is {self.state(job)} already. Wait until it ends, or stop it."
                    )
            promised = sum(still_to_write(workspace, job.writes, job.runs) for job in pending)
            check_room(workspace, still_to_write(workspace, writes, runs), promised=promised)
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

    def of(self, workspace: Workspace) -> list[Job]:
        """A visitor's jobs, oldest first."""
        return [job for job in self._all() if job.visitor == workspace.folder.name]

    def find(self, workspace: Workspace, job_id: str) -> Job:
        """One of a visitor's jobs.

        Raises:
            StudioError: they have none of that name.
        """
        for job in self.of(workspace):
            if job.id == job_id:
                return job
        raise StudioError("there is no such job here. It may have been deleted.")

    def of_run(self, workspace: Workspace, run: str) -> Job | None:
        """The newest job that writes a run."""
        return next((job for job in reversed(self.of(workspace)) if run in job.runs), None)

    def _all(self) -> list[Job]:
        with self._lock:
            names = sorted(folder.name for folder in self.folder.iterdir())
            for name in names:
                facts = {} if name in self._known else read_facts(self.folder / name / JOB)
                if facts:
                    facts |= {word: tuple(facts[word]) for word in ("command", "runs")}
                    self._known[name] = Job(**facts)
            return [self._known[name] for name in names if name in self._known]

    def state(self, job: Job) -> State:
        """Where a job is; a process that is no more and left no word was killed: failed."""
        if job.id not in self._ended:
            state = self._look(job)
            if state not in ENDED:
                return state
            self._ended[job.id] = state
        return self._ended[job.id]

    def _look(self, job: Job) -> State:
        folder = self.folder / job.id
        if (folder / CANCELLED).exists():
            return "cancelled"
        alive = self._is_alive(job)  # Before the look for its last word: it may end in between.
        ended = read_facts(folder / child.EXIT)
        if ended:
            status = ended["status"]
            return "finished" if status == 0 else "stopped" if status in STOPPED else "failed"
        if alive:
            return "running"
        return "failed" if (folder / child.PROCESS).exists() else "waiting"

    def _is_alive(self, job: Job) -> bool:
        process = self._children.get(job.id)
        if process is not None:
            return process.poll() is None
        mark = self._mark(job)
        return mark is not None and mark.is_alive()

    def _mark(self, job: Job) -> ProcessMark | None:
        facts = read_facts(self.folder / job.id / child.PROCESS)
        return ProcessMark(facts["pid"], facts["started"], host_name()) if facts else None

    def status(self, job: Job) -> int | None:
        """The exit status of an ended job; None while it goes on, or where it was killed."""
        return read_facts(self.folder / job.id / child.EXIT).get("status")

    def place(self, job: Job) -> int:
        """How many jobs have their turn before a waiting one."""
        _, waiting = self._pool(job.uses_device)
        return waiting.index(job) if job in waiting else 0

    def _pool(self, uses_device: bool) -> tuple[list[Job], list[Job]]:
        """List the jobs at work on (or off) the devices, and those that wait, in order of turns."""
        queue: RoundRobinQueue[Job] = RoundRobinQueue()
        turns: list[tuple[bool, float, Job]] = []
        for job in self._all():
            if job.uses_device != uses_device:
                continue
            state = self.state(job)
            if state == "waiting":
                queue.put(job.visitor, job)
            elif self._began(job):
                turns.append((state == "running", self._began(job), job))
        # A turn lasts as long as its job: visitors with none at work are served first.
        for _, _, job in sorted(turns, key=lambda turn: turn[:2]):
            queue.count_turn(job.visitor)
        return [job for is_running, _, job in turns if is_running], queue.order()

    def _began(self, job: Job) -> float:
        """When a job was started, in seconds since 1970; 0: it never was."""
        if job.id not in self._starts:
            mark = self._mark(job)
            self._starts[job.id] = 0.0 if mark is None else mark.started
        return self._starts[job.id]

    def is_device_busy(self) -> bool:
        """Whether a job is at work that uses the device."""
        return any(job.uses_device and self.state(job) == "running" for job in self._all())

    def output(self, job: Job, most_bytes: int = OUTPUT_BYTES) -> str:
        """What a job printed, or the end of it, the server's own folders left out."""
        text = read_output(self.folder / job.id / child.OUTPUT, most_bytes)
        for folder in (self.home / "visitors" / job.visitor, self.home, PROJECT):
            text = text.replace(f"{folder}/", "").replace(str(folder), "")
        return text

    def tail(self, job: Job, lines: int = 40) -> list[str]:
        """The last lines that a job printed, as a terminal shows them: progress bars once."""
        return shown_lines(self.output(job, TAIL_BYTES))[-lines:]

    def stop(self, job: Job) -> None:
        """Take a waiting job out of the queue; ask a running one to save and end."""
        with self._lock:
            if self.state(job) == "waiting":
                write_text(self.folder / job.id / CANCELLED, "{}\n")
        until = time.monotonic() + CLAIM_SECONDS
        while self.state(job) == "running":
            mark = self._mark(job)
            if mark is not None:
                os.kill(mark.pid, signal.SIGTERM)
            if mark is not None or time.monotonic() > until:
                return
            time.sleep(0.02)  # Just started: it has yet to say who it is.

    def kill(self, job: Job) -> None:
        """End a running job at once; it saves nothing more."""
        mark = self._mark(job)
        if self.state(job) == "running" and mark is not None:
            for process in psutil.Process(mark.pid).children(recursive=True):
                process.kill()

    def forget(self, workspace: Workspace, run: str) -> None:
        """Drop the ended jobs that wrote a run, with their output."""
        for job in self.of(workspace):
            if run in job.runs and self.state(job) in ENDED:
                shutil.rmtree(self.folder / job.id)

    def tick(self) -> None:
        """Start what may start now."""
        with self._lock:
            for job_id, process in list(self._children.items()):
                if process.poll() is not None:
                    del self._children[job_id]
                    if not (self.folder / job_id / child.PROCESS).exists():
                        self._ended[job_id] = "failed"  # It could not even claim it: a full disk.
            for uses_device, room in ((True, max(1, self.devices)), (False, self.hands)):
                work, waiting = self._pool(uses_device)
                for job in waiting[: max(0, room - len(work))]:
                    self._start(job, self._free_device(work))
                    work.append(job)

    def _free_device(self, work: Sequence[Job]) -> int:
        taken = {read_facts(self.folder / job.id / child.PROCESS).get("device") for job in work}
        return next(number for number in range(len(work) + 1) if number not in taken)

    def _start(self, job: Job, device: int) -> None:
        folder = self.folder / job.id
        workspace = Workspace.of(self.home, job.visitor)
        secret = self._secrets.pop(job.id, {})
        if job.needs_secret and not secret:
            # It must not go on with whatever token the server itself has.
            write_text(folder / child.OUTPUT, f"error: {SECRET_GONE}\n")
            write_text(folder / child.EXIT, '{"status": 2}\n')
            return
        environment = job_environment(self.home, self.is_private, secret)
        environment |= confining([workspace.folder, self.home / MEASURES])
        if self.devices > 1 and job.uses_device:
            environment["CUDA_VISIBLE_DEVICES"] = str(device)
        self._starts[job.id] = time.time()
        place = workspace.folder
        self._children[job.id] = child.start(folder, device, place, job.command, environment)
