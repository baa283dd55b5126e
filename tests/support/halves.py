"""Trainings that are interrupted and gone on with, without the script around them."""

from pathlib import Path

from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.trainer.early_stop import NEVER
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.saving import restore
from nora_studio.trainer.train_state import BatchSource, TrainState
from support.loop import task_of, train_state_of
from support.trainer import tiny_options, tiny_subject

STEPS = 4


def begun(
    base: Path, photos: Path, folder: Path, **changes
) -> tuple[list[TrainState], BatchSource, Plan]:
    """Build the states of new or resumed runs in a folder, and a plan that saves each step."""
    options = tiny_options(base, photos, folder, **({"steps": STEPS} | changes))
    subject, batches = tiny_subject(options)
    task, states = task_of(subject, batches), []
    for method in options.methods:
        run = Run(folder / f"mug-{method}")
        if not (run.folder / "config.toml").exists():
            run = Run.create(run.folder, "")
        states.append(train_state_of(task, method, run))
    steps = task.trainer.learning.steps
    plan = Plan(steps, 2, 1, steps, 0, 0, 1.0, NEVER, accumulate=options.accumulate, capture=False)
    return states, batches, plan


def go_on(states: list[TrainState], batches: BatchSource, plan: Plan, start: int = 0) -> None:
    """Train to the end of the plan, from the beginning or from a checkpoint."""
    if start:
        restore(states, batches, start)
    with StopRequest() as stop:
        assert train(states, batches, plan, stop, lambda *_: None, lambda _: {}, start)


def assert_interruptions_change_nothing(
    base: Path, photos: Path, folder: Path, at: tuple[int, ...], **changes
) -> list[Path]:
    """Train once whole, then from each of its checkpoints `at` on: the same bytes each time.

    Returns:
        The runs' folders.
    """
    states, batches, plan = begun(base, photos, folder, **changes)
    go_on(states, batches, plan)
    folders = [state.run.folder for state in states]
    last = f"checkpoints/step-{plan.steps:06d}"
    whole = [bytes_of(run / last) for run in folders]
    assert all(len(files) > 1 for files in whole)
    for step in at:
        states, batches, plan = begun(base, photos, folder, **changes)
        go_on(states, batches, plan, step)
        assert [bytes_of(run / last) for run in folders] == whole, f"gone on after step {step}"
    return folders


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every safetensors file below a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
