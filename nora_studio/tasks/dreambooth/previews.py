"""Generate previews: images of a run's prompts at a fixed seed, by the base and the adapter."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import nn

from nora_studio import __version__
from nora_studio.runs import processes
from nora_studio.runs.disk_errors import GO_ON
from nora_studio.runs.runs import Run
from nora_studio.sdxl.generate import generate_images, save_image
from nora_studio.sdxl.models import all_on_device, with_parts
from nora_studio.sdxl.recipes import Recipe
from nora_studio.tasks.dreambooth.base import load_base_of
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.trainer.train_state import TrainState


def preview_files(run: Run, step: int, count: int) -> list[Path]:
    """Return the files of a step's previews, one for each prompt; step 0 is the base."""
    name = f"step-{step:06d}" if step else "base"
    return [run.sample_file(f"{name}-{number:02d}") for number in range(1, count + 1)]


def generate_base_previews(subject: Subject, states: list[TrainState]) -> list[Image.Image]:
    """Generate the base's previews, one for each prompt, and save them into every run."""
    pipe = subject.pipe
    if subject.sharding is not None:  # The adapter is then attached to the base itself.
        pipe = fresh_pipe(subject, states[0].accelerator.device)
        shard_unet(subject, pipe, states[0].accelerator.device)
    pictures = previews_of(subject, pipe)
    for state in states:
        _save(subject, pictures, state.run, 0, None)
    return pictures


def generate_previews(subject: Subject, state: TrainState, step: int) -> list[Image.Image]:
    """Generate a run's previews of a step, one for each prompt, and save them into the run."""
    module: DreamboothStep = state.accelerator.unwrap_model(state.model)
    parts = {"unet": module.unet, **dict(module.encoders)}
    with state.averaged(), _as_loaded(module, state.parameters):
        pictures = previews_of(subject, with_parts(subject.pipe, parts))
    _save(subject, pictures, state.run, step, state)
    return pictures


def fresh_pipe(subject: Subject, device: torch.device) -> StableDiffusionXLPipeline:
    """Load the base again; it stays on the CPU if it is to be sharded (`shard_unet`)."""
    pipe = load_base_of(subject.settings.base, subject.pipe.dtype, device)
    return pipe.to(device) if subject.sharding is None else pipe


def shard_unet(subject: Subject, pipe: StableDiffusionXLPipeline, device: torch.device) -> None:
    """Shard a freshly loaded pipeline's UNet if the subject's base is sharded."""
    if subject.sharding is not None:
        subject.sharding.shard(pipe.unet, device)


@contextlib.contextmanager
def _as_loaded(module: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, as a loaded adapter is.

    `torch.matmul` folds its operands differently if one requires a gradient, even under `no_grad`,
    and then rounds differently; verification compares images bitwise.
    """
    module.eval()
    learning = [parameter for parameter in trained if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        module.train()


def previews_of(subject: Subject, pipe: StableDiffusionXLPipeline) -> list[Image.Image]:
    """Generate one image for each prompt, all from the same starting noise."""
    previews = subject.settings.previews
    pictures = generate_images(
        pipe,
        previews.prompts,
        [previews.seed],
        steps=previews.steps,
        guidance=previews.guidance,
        size=subject.size,
        trigger=subject.trigger,
    )
    with all_on_device(pipe):
        return [picture for _, _, picture in pictures]


def _save(
    subject: Subject, pictures: list[Image.Image], run: Run, step: int, state: TrainState | None
) -> None:
    if not processes.is_main():
        return
    previews, files = subject.settings.previews, preview_files(run, step, len(pictures))
    for picture, prompt, file in zip(pictures, previews.prompts, files, strict=True):
        recipe = Recipe(
            model=subject.settings.base.model,
            prompt=prompt,
            seed=previews.seed,
            steps=previews.steps,
            guidance=previews.guidance,
            size=subject.size,
            version=__version__,
            adapter=None if state is None else run.folder.name,
            method=None if state is None else state.label,
            trigger=subject.trigger,
        )
        save_image(picture, file, recipe, GO_ON)
