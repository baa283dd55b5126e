"""Training states built in this process, and the loop over them."""

from pathlib import Path

from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.tasks.dreambooth.preview_log import PreviewLog
from nora_studio.tasks.dreambooth.setup import Prepared
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.task import DreamboothTask
from nora_studio.trainer.acceleration import prepare_accelerator
from nora_studio.trainer.build import build_train_state
from nora_studio.trainer.early_stop import NEVER
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.train_state import BatchSource, TrainState
from support.trainer import tiny_options, tiny_subject


def task_of(subject: Subject, batches: BatchSource, folder: Path | None = None) -> DreamboothTask:
    """DreamBooth's task as it is once a subject is prepared.

    Args:
        folder: Of the runs, where they are drawn into.
    """
    task = DreamboothTask()
    task.settings = subject.settings
    task.prepared = Prepared(subject, batches, None)  # type: ignore[arg-type]
    place = folder or Path()
    runs = {method: Run(place / f"mug-{method}") for method in task.trainer.methods}
    task.previews = PreviewLog(subject, runs, None, print)
    return task


def train_state_of(task: DreamboothTask, method: str, run: Run) -> TrainState:
    """One method of a task, ready for the loop."""
    return build_train_state(task, method, run, prepare_accelerator("no"))


def built(base: Path, photos: Path, folder: Path, **changes):
    """Build a task and the state of each of its methods, ready for the loop."""
    options = tiny_options(base, photos, folder, **changes)
    subject, batches = tiny_subject(options)
    task = task_of(subject, batches, folder)
    states = [
        train_state_of(task, method, Run.create(folder / f"mug-{method}", ""))
        for method in options.methods
    ]
    return task, batches, states


def run_loop(states: list[TrainState], batches, steps: int) -> None:
    plan = Plan(
        steps, 10, steps, 1, 0, 0, max_gradient_norm=1.0, watch=NEVER, accumulate=1, capture=False
    )
    with StopRequest() as stop:
        assert train(states, batches, plan, stop, lambda state, step: None, lambda state: {})
