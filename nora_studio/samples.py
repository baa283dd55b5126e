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
from nora_studio.subject import Subject
from nora_studio.trainee import Trainee


def draw_base(subject: Subject, trainees: list[Trainee]) -> None:
    """Draw the fixed-seed picture of the bare base into every run."""
    picture = draw_sample_of(subject, subject.pipe)
    for trainee in trainees:
        save_picture(picture, trainee.run.sample_file("base"), _recipe(subject, None))


def draw_sample(subject: Subject, trainee: Trainee, step: int) -> Image.Image:
    """Draw the fixed-seed picture of a trainee as of a step into its run."""
    module: DreamboothStep = trainee.accelerator.unwrap_model(trainee.model)
    parts = {"unet": module.unet, **dict(module.encoders)}
    with trainee.served(), _as_loaded(module, trainee.parameters):
        picture = draw_sample_of(subject, with_parts(subject.pipe, parts))
    save_picture(picture, trainee.run.sample_file(f"step-{step:06d}"), _recipe(subject, trainee))
    return picture


@contextlib.contextmanager
def _as_loaded(module: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """In the state of a loaded adapter: evaluation mode, nothing trained.

    `torch.matmul` folds its operands differently where one asks for a gradient, even under
    `no_grad`, and then rounds differently; the proof compares pictures to the bit.
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
