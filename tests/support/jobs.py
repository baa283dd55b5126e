"""Jobs of a visitor that do nothing but wait."""

import sys
import time
from pathlib import Path

from nora_studio.app.server.job import Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.workspace import Workspace

SLEEP = [sys.executable, "-S", "-c", "import time; print('at work', flush=True); time.sleep(60)"]


def visitor(home: Path, number: int = 1) -> Workspace:
    return Workspace.open(home, f"{number:032x}")


def begin(jobs: Jobs, workspace: Workspace, command: list[str], **more) -> Job:
    return jobs.submit(workspace, "train", "mug", command, "nora-studio train", **more)


def wait_for(jobs: Jobs, job: Job, *states: str, seconds: float = 20) -> str:
    until = time.monotonic() + seconds
    while jobs.state(job) not in states and time.monotonic() < until:
        jobs.tick()
        time.sleep(0.02)
    assert jobs.state(job) in states, (jobs.state(job), jobs.tail(job))
    return jobs.state(job)
