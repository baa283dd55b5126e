"""Prior preservation: the base's own pictures of the class, learned beside the subject."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from nora_studio import __version__
from nora_studio.errors import StudioError
from nora_studio.photos.images import list_photos
from nora_studio.photos.prompts import replace_token
from nora_studio.runs.atomic import tidy
from nora_studio.runs.disk_errors import writing
from nora_studio.runs.run_lock import held
from nora_studio.sdxl.generate import generate_images, save_image
from nora_studio.sdxl.recipes import Recipe, read_recipe
from nora_studio.tasks.dreambooth.batches import Batch, BatchDraws

STEPS = 25
GUIDANCE = 5.0


class PairedDraws:
    """Batches of the subject, each with as many pictures of its class.

    Class pictures have the size of the subject's. The loss over such a batch is the subject's mean
    plus `weight` times the class's mean (DreamBooth, arXiv 2208.12242, eq. 2), in whatever shares
    processes take it.
    """

    def __init__(self, subject: BatchDraws, priors: Sequence[BatchDraws], weight: float) -> None:
        """`priors` draw the class, one for each size of the subject's pictures."""
        self.subject, self.weight = subject, weight
        self.priors = {tuple(one.caches[0].mean.shape[-2:]): one for one in priors}

    def next(self) -> Batch:
        """One batch on the CPU: the subject's rows, then the class's."""
        own = self.subject.next()
        prior = self.priors[tuple(own["latents"].shape[-2:])].next()
        if "mask" in own:
            prior["mask"] = torch.ones_like(own["mask"])
        pair = [own, prior]
        batch = {name: torch.cat([one[name] for one in pair]) for name in pair[0]}
        rows = [len(one["timesteps"]) for one in pair]
        # Over the mean of both halves these give the sum of the two means.
        shares = [sum(rows) / rows[0], self.weight * sum(rows) / rows[1]]
        importance = [torch.full((count,), share) for count, share in zip(rows, shares)]
        return {**batch, "importance": torch.cat(importance)}

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next batches depend on."""
        states = self.subject.state()
        for number, prior in enumerate(self.priors.values()):
            states |= {f"prior_{number}_{name}": v for name, v in prior.state().items()}
        return states

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on exactly where `state` was taken."""
        for number, prior in enumerate(self.priors.values()):
            start = f"prior_{number}_"
            names = [name for name in state if name.startswith(start)]
            prior.restore({name.removeprefix(start): state[name] for name in names})
        self.subject.restore(
            {name: v for name, v in state.items() if not name.startswith("prior_")}
        )


def class_prompt(prompt: str) -> str:
    """The training prompt without its subject: "a photo of a [V] mug" is "a photo of a mug"."""
    return replace_token(prompt, None)


def class_folder(runs: Path, model: str, prompt: str, size: int) -> Path:
    """Where a model's pictures of a class are kept for all runs in a folder."""
    digest = hashlib.sha256(f"{model}\n{prompt}\n{size}".encode()).hexdigest()[:12]
    return runs / "class-pictures" / digest


def draw_class_pictures(
    pipe: StableDiffusionXLPipeline,
    folder: Path,
    count: int,
    model: str,
    prompt: str,
    size: int,
    on_image: Callable[[int, int], object] | None = None,
) -> list[Path]:
    """The class's pictures, drawn by the bare base where they are not there yet.

    What was begun is gone on with, picture by picture. A person's own pictures may stand there
    too, under other names: they count.

    Args:
        folder: Made where there is none.
        count: Pictures wanted.
        size: Side in pixels.
        on_image: Called with (images generated, images to generate).

    Raises:
        StudioError: a picture there was drawn from another model or prompt.
    """
    with writing("class pictures", folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = {folder / f"drawn-{seed:05d}.png": seed for seed in range(count)}
    own = [file for file in _pictures_in(folder) if not file.name.startswith("drawn-")]
    there = [file for file in wanted if file.exists()]
    for file in there:
        recipe = read_recipe(file)
        if (recipe.model, recipe.prompt, recipe.size) != (model, prompt, size):
            raise StudioError(
                f"--class-dir: {file} shows {recipe.prompt!r} by {recipe.model} at {recipe.size} "
                f"pixels; this run needs {prompt!r} by {model} at {size}. Name another folder."
            )
    if len(own) + len(there) < count:
        # Another run may want the same pictures at the same time: it finds them drawn.
        with held(folder):
            tidy(folder)
            missing = [seed for file, seed in wanted.items() if not file.exists()]
            missing = missing[: max(0, count - len(own) - len(wanted) + len(missing))]
            pictures = generate_images(
                pipe,
                [prompt],
                missing,
                steps=STEPS,
                guidance=GUIDANCE,
                size=size,
                on_image=on_image,
            )
            for _, seed, picture in pictures if missing else ():
                recipe = Recipe(model, prompt, seed, STEPS, GUIDANCE, size, __version__)
                save_image(picture, folder / f"drawn-{seed:05d}.png", recipe)
    return _pictures_in(folder)[:count]


def _pictures_in(folder: Path) -> list[Path]:
    # What another run has under way there, and its lock, are hidden.
    shown = any(not file.name.startswith(".") for file in folder.iterdir())
    return list_photos(folder, "--class-dir") if shown else []
