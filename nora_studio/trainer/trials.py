"""Kill the trainer at a chosen moment, resume as a user would, and compare the results.

The moment is found by watching the training's folders for its current phase, so that each phase is
hit, however short it is.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nora_studio.runs.interruption import signal_when
from nora_studio.runs.launching import Start
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAIN
from nora_studio.runs.stop import SIGKILL
from nora_studio.trainer.audit import compare_runs

TEMPORARY = (".new", ".old", ".gone")
ACTS = (
    "start-up",
    "encoding",
    "class pictures",
    "steps",
    "checkpoint",
    "sampling",
    "final save",
    "proof",
    "any moment",
)


@dataclass(frozen=True)
class Training:
    """A training in a separate folder, which also holds its caches and class images."""

    folder: Path
    name: str
    methods: tuple[str, ...]
    steps: int
    flags: tuple[str, ...]
    """All other flags, for starting and for resuming."""

    @property
    def runs(self) -> list[Run]:
        """The run of each method."""
        return [Run(self.folder / "runs" / f"{self.name}-{method}") for method in self.methods]

    @property
    def cache(self) -> Path:
        """The folder of its caches."""
        return self.folder / "cache"

    def start(self, start: Start, *more: str):
        """Start the trainer, with more flags."""
        self.folder.mkdir(parents=True, exist_ok=True)
        words = [*self.flags, "--output-dir", str(self.folder / "runs"), "--name", self.name]
        words += ["--method", ",".join(self.methods), "--steps", str(self.steps), *more]
        environment = {"NORA_STUDIO_CACHE": str(self.cache)}
        return start(TRAIN, words, self.folder / "told.txt", environment)

    def output(self) -> str:
        """Return everything that the trainer has printed."""
        file = self.folder / "told.txt"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def class_images(self) -> list[Path]:
        """Return the class images generated so far."""
        return list((self.folder / "runs").glob("class-pictures/*/drawn-*.png"))

    def strays(self) -> list[str]:
        """Return the names of temporary files and folders that a killed process left."""
        found = (path for path in self.folder.rglob("*"))
        return sorted(
            str(path.relative_to(self.folder))
            for path in found
            if path.suffix in TEMPORARY or path.name.startswith("tmp")
        )


@dataclass
class KillResult:
    """The result of one kill."""

    aimed_at: str
    hit: str = ""
    """The phase in which it was killed; "nothing" if it had ended."""
    seconds: float = 0.0
    """Seconds from the start to the kill."""
    commands: int = 0
    """Number of commands that a user had to type afterwards."""
    problems: list[str] = field(default_factory=list)


def moment(act: str, training: Training, seconds: float, chance: random.Random) -> Callable:
    """Return a function that becomes true at a random moment within a phase.

    Args:
        act: A phase of `ACTS`.
        seconds: Duration of the whole training without a kill.
    """
    began = time.monotonic()
    runs = training.runs
    run = chance.choice(runs)
    step = chance.randrange(1, training.steps)
    checkpoint = run.folder / "checkpoints"
    begins: dict[str, Callable[[], object]] = {
        "start-up": lambda: True,
        "encoding": lambda: training.cache.exists() and any(training.cache.rglob("*.new")),
        "class pictures": lambda: any((training.folder / "runs").glob("class-pictures/*/*.png*")),
        "steps": lambda: any(row["step"] >= step for row in run.read_log()),
        "checkpoint": lambda: (
            any(checkpoint.glob(".*.new")) and (step < 3 or len(run.checkpoints()) > 0)
        ),
        "sampling": lambda: max(run.checkpoints(), default=0) >= step,
        "final save": lambda: any(run.folder.glob(".adapter.*")),
        "proof": lambda: run.adapter.exists(),
        "any moment": lambda: True,
    }
    # Roughly how long a phase takes, as a share of the whole; any moment within it will do.
    shares = {"start-up": 0.3, "sampling": 0.005, "proof": 0.1, "any moment": 1.0}
    wait = chance.random() * seconds * shares.get(act, 0.001)
    seen: list[float] = []

    def is_time() -> bool:
        if not seen and begins[act]():
            seen.append(began if act in ("start-up", "any moment") else time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + wait

    return is_time


def current_phase(training: Training, encoded: int) -> str:
    """Return the phase in which a training was killed, judging by the files it left.

    Args:
        encoded: Number of files in the cache once everything is encoded.
    """
    strays = training.strays()
    for piece, act in (
        ("cache/", "encoding"),
        ("class-pictures/", "class pictures"),
        ("checkpoints/", "checkpoint"),
        ("/.adapter.", "final save"),
        ("samples/", "sampling"),
    ):
        if any(piece in stray for stray in strays):
            return act
    runs = training.runs
    if not all(run.exists for run in runs):
        files = sum(file.is_file() for file in training.cache.rglob("*"))
        if training.class_images():
            return "class pictures" if files < encoded else "start-up"
        return "encoding" if 0 < files < encoded else "start-up"
    if all(run.read_status().get("state") == "finished" for run in runs):
        return "nothing"
    if all(training.steps in run.checkpoints() for run in runs):
        if any(run.adapter.exists() and not _is_finished(run) for run in runs):
            return "proof"
        return "sampling"
    newest = min(max(run.checkpoints(), default=0) for run in runs)
    logged = max((row["step"] for run in runs for row in run.read_log()), default=0)
    name = f"step-{newest:06d}" if newest else "base"
    sampled = all(any(run.folder.glob(f"samples/{name}*.png")) for run in runs)
    return "steps" if sampled or logged > newest else "sampling"


def _is_finished(run: Run) -> bool:
    return run.read_status().get("state") == "finished"


def kill_once(
    act: str,
    training: Training,
    whole: Training,
    seconds: float,
    start: Start,
    seed: int,
) -> KillResult:
    """Start a training, kill it within a phase, resume it, and compare the results.

    Args:
        whole: The same training, never killed.
        seconds: How long that one took.
    """
    trial = KillResult(act)
    encoded = sum(file.is_file() for file in whole.cache.rglob("*"))
    began = time.monotonic()
    started = training.start(start)
    is_time = moment(act, training, seconds, random.Random(seed))
    signal_when(started, SIGKILL, is_time)
    status = started.wait()
    trial.seconds = time.monotonic() - began
    trial.hit = current_phase(training, encoded) if status == -SIGKILL else "nothing"
    if status not in (0, -SIGKILL):
        trial.problems.append(f"ended with status {status} before the kill")
    alive = [str(run.folder) for run in training.runs if run.is_alive()]
    trial.problems += [f"{folder} counts as alive" for folder in alive]
    # What a user would type: --resume, or the same command if there is nothing to resume.
    more = ["--resume"] if any(run.exists for run in training.runs) else []
    trial.commands = 1
    status = training.start(start, *more).wait()
    if status != 0:
        trial.problems.append(f"resuming ended with status {status}: {training.output()[-300:]}")
        return trial
    trial.problems += differences(whole, training)
    trial.problems += [f"left behind: {stray}" for stray in training.strays()]
    return trial


def differences(whole: Training, other: Training) -> list[str]:
    """Return what is not bitwise equal in the runs of two trainings."""
    found = []
    for run, twin in zip(whole.runs, other.runs, strict=True):
        for one in compare_runs(run.folder, twin.folder):
            if one.differing or not one.compared:
                found.append(f"{twin.folder.name}: {one.what} differs, first {one.where}")
    return found
