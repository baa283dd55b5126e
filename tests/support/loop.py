"""Trainees built in this process, and the loop over them."""

from pathlib import Path

from nora_studio.options.part_settings import part_settings
from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.tasks.dreambooth.task import build_trainee
from nora_studio.trainer.build import prepare_accelerator
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.trainee import Trainee
from support.trainer import tiny_options, tiny_subject


def built(base: Path, photos: Path, folder: Path, **changes):
    """A subject and its trainees, ready for the loop."""
    options = tiny_options(base, photos, folder, **changes)
    subject, draws = tiny_subject(options)
    trainees = [
        build_trainee(
            subject,
            method,
            part_settings(options, method),
            Run.create(folder / f"mug-{method}", ""),
            prepare_accelerator("no"),
        )
        for method in options.methods
    ]
    return subject, draws, trainees


def run_loop(trainees: list[Trainee], draws, steps: int) -> None:
    plan = Plan(steps, 10, steps, 1, 0, 0, max_gradient_norm=1.0)
    with StopRequest() as stop:
        assert train(trainees, draws, plan, stop, lambda trainee, step: None, lambda trainee: {})
