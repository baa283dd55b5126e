"""The pictures of a run: its prompt at a fixed seed, by the base and as the adapter learns."""

import contextlib
from collections.abc import Iterator

from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import nn

from nora_studio import __version__
from nora_studio.dreambooth import DreamboothStep
from nora_studio.generate import Recipe, draw, save_picture
from nora_studio.models import all_awake, with_parts
from nora_studio.storage import GO_ON
from nora_studio.subject import Subject
from nora_studio.trainee import Trainee


def draw_base(subject: Subject, trainees: list[Trainee]) -> None:
    """Draw the fixed-seed picture of the bare base into every run."""
    picture = draw_sample_of(subject, subject.pipe)
    for trainee in trainees:
        save_picture(picture, trainee.run.sample_file("base"), _recipe(subject, None), GO_ON)


def draw_missing(subject: Subject, trainees: list[Trainee], step: int) -> None:
    """Draw what a run that was stopped right after a checkpoint had no time to draw."""
    options = subject.options
    if not all(trainee.run.sample_file("base").is_file() for trainee in trainees):
        draw_base(subject, trainees)
    if options.sample_every and step % options.sample_every == 0 and step < (options.steps or 0):
        for trainee in trainees:
            if not trainee.run.sample_file(f"step-{step:06d}").is_file():
                draw_sample(subject, trainee, step)


def draw_sample(subject: Subject, trainee: Trainee, step: int) -> Image.Image:
    """Draw the fixed-seed picture of a trainee as of a step into its run."""
    module: DreamboothStep = trainee.accelerator.unwrap_model(trainee.model)
    parts = {"unet": module.unet, **dict(module.encoders)}
    with _as_served(module, trainee.parameters):
        picture = draw_sample_of(subject, with_parts(subject.pipe, parts))
    file = trainee.run.sample_file(f"step-{step:06d}")
    save_picture(picture, file, _recipe(subject, trainee), GO_ON)
    return picture


@contextlib.contextmanager
def _as_served(module: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """In the state of a loaded adapter: evaluation mode, nothing trained.

    `torch.matmul` folds its operands differently where one asks for a gradient, even under
    `no_grad`, and then rounds differently; the proof compares pictures to the bit.
    """
    module.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        module.train()


def draw_sample_of(subject: Subject, pipe: StableDiffusionXLPipeline) -> Image.Image:
    options = subject.options
    prompt = options.sample_prompt or options.prompt
    pictures = draw(
        pipe,
        [prompt],
        [options.sample_seed],
        steps=options.sample_steps,
        guidance=options.guidance,
        size=subject.size,
        trigger=subject.trigger,
    )
    with all_awake(pipe):
        return next(iter(pictures))[2]


def _recipe(subject: Subject, trainee: Trainee | None) -> Recipe:
    options = subject.options
    return Recipe(
        model=options.model,
        prompt=options.sample_prompt or options.prompt,
        seed=options.sample_seed,
        steps=options.sample_steps,
        guidance=options.guidance,
        size=subject.size,
        version=__version__,
        adapter=None if trainee is None else trainee.run.folder.name,
        method=None if trainee is None else trainee.label,
        trigger=subject.trigger,
    )
