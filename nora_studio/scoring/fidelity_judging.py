"""Generate images with checkpoints at several strengths, and score them for `fidelity.py`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from torch import Tensor

from nora_studio.adapters.files.adapter_file import (
    AdapterFile,
    check_checkpoint_exists,
    open_subject_adapter,
)
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.errors import StudioError
from nora_studio.photos.prompts import replace_token
from nora_studio.runs.runs import Run
from nora_studio.scoring.compare import (
    BASE,
    ComparisonColumn,
    GenerationSettings,
    adapter_columns,
    generate_missing,
    mean_by_prompt,
    read_image,
    run_name,
)
from nora_studio.scoring.dino import Dino
from nora_studio.scoring.fidelity import PROMPT_SCORE, FidelityPoint, Score
from nora_studio.scoring.scores import Scorer
from nora_studio.scoring.similarity import mean_similarity
from nora_studio.scoring.statistics import paired_difference


@dataclass(frozen=True)
class Checkpoint:
    """An adapter at one step of its training."""

    run: str
    path: Path
    """The path as it was given."""
    adapter: AdapterFile
    is_final: bool

    @property
    def card(self) -> AdapterCard:
        """The adapter's card."""
        return self.adapter.card


def find_checkpoints(path: Path, last: int) -> list[Checkpoint]:
    """Return a run's last checkpoints and its final adapter, by step; or a single adapter.

    Args:
        last: Number of checkpoints before the final adapter; one of the same step is left out.

    Raises:
        StudioError: the path is neither an adapter nor a run with one.
    """
    run = Run(path)
    final = None if run.exists and not run.adapter.is_dir() else open_subject_adapter(path)
    shown = path if final is None else final.path
    name = run.folder.resolve().name if run.exists else run_name(shown)
    ends = [] if final is None else [Checkpoint(name, path, final, is_final=True)]
    steps = {one.card.steps for one in ends}
    earlier = [(step, folder) for step, folder in run.checkpoints().items() if step not in steps]
    chosen = earlier[-last:] if last else []
    found = [
        Checkpoint(name, folder, open_subject_adapter(folder), is_final=False)
        for _, folder in chosen
    ]
    if not found + ends:
        if earlier:
            raise StudioError(
                f"{path} has no final adapter yet. Wait until it ends, or give --checkpoints 1."
            )
        raise StudioError(
            f"expected a run with a checkpoint; {path} has none yet. Wait for its first one."
        )
    return sorted(found + ends, key=lambda one: one.card.steps)


@dataclass(frozen=True)
class Judges:
    """The judges, with the real photos and the prompts encoded once."""

    scorer: Scorer
    dino: Dino | None
    photos: Tensor  # (photos, width), unit vectors by CLIP
    dino_photos: Tensor | None  # (photos, width), unit vectors by DINO
    texts: Mapping[str, Tensor]  # prompt -> (width,), unit vectors

    @classmethod
    def prepare(
        cls,
        scorer: Scorer,
        dino: Dino | None,
        photos: Sequence[Image.Image],
        prompts: Sequence[str],
    ) -> "Judges":
        """Encode the photos and prompts that images are compared with.

        Raises:
            StudioError: there are fewer than two photos, so none can be compared with another.
        """
        if len(photos) < 2:
            raise StudioError(
                f"expected at least two real photos of the subject; got {len(photos)}."
            )
        texts = scorer.text_features([replace_token(prompt, None) for prompt in prompts])
        return cls(
            scorer,
            dino,
            scorer.image_features(photos),
            None if dino is None else dino.features(photos),
            dict(zip(prompts, texts, strict=True)),
        )

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return CLIP-T, CLIP-I, DINO and "nearest" of each image, (images,) each.

        CLIP-T is with the image's own prompt. "nearest" is the similarity to the photo that an
        image is nearest to, by the judge of the subject.
        """
        features = self.scorer.image_features(images)
        photos = self.photos
        texts = torch.stack([self.texts[prompt] for prompt in prompts])
        scores = {
            PROMPT_SCORE: (features * texts).sum(-1),
            "CLIP-I": mean_similarity(features, photos),
        }
        if self.dino is not None and self.dino_photos is not None:
            features, photos = self.dino.features(images), self.dino_photos
            scores["DINO"] = mean_similarity(features, photos)
        return scores | {"nearest": (features @ photos.T).amax(-1)}

    def photo_scores(self, unit_count: int) -> dict[str, tuple[float, ...]]:
        """Return the photos' scores: CLIP-T with every prompt, and similarity to each other.

        Args:
            unit_count: How often a score that is one number is repeated, once for each unit.
        """
        by_prompt = (self.photos @ torch.stack(list(self.texts.values())).T).mean(0).tolist()
        whole = by_prompt if len(by_prompt) > 1 else by_prompt * unit_count
        scores = {PROMPT_SCORE: tuple(whole)}
        for name, photos in (("CLIP-I", self.photos), ("DINO", self.dino_photos)):
            if photos is not None:
                scores[name] = (_pairwise_similarity(photos).mean().item(),) * unit_count
        return scores

    @property
    def nearest_photos(self) -> float:
        """Similarity of the two most similar photos, by the judge of the subject."""
        photos = self.photos if self.dino_photos is None else self.dino_photos
        return _pairwise_similarity(photos).max().item()


def _pairwise_similarity(photos: Tensor) -> Tensor:
    """Return the similarity of every two different photos, (photos * (photos - 1),)."""
    others = ~torch.eye(len(photos), dtype=torch.bool)
    return (photos @ photos.T)[others]


def measure(
    pipe: StableDiffusionXLPipeline,
    judges: Judges,
    checkpoint: Checkpoint | None,
    settings: GenerationSettings,
    folder: Path,
    on_image: Callable[[], object] = lambda: None,
) -> FidelityPoint:
    """Generate and score the images of one point; existing images with the same recipe are used.

    Args:
        checkpoint: None for the base.
        settings: Settings of the images, with the point's strength.
        folder: Folder of the results, in which the images are stored.
    """
    if checkpoint is None:
        column, place = ComparisonColumn(BASE), folder / "pictures"
        run, method, step, strength = BASE, BASE, 0, 0.0
    else:
        (column,) = adapter_columns([checkpoint.adapter], with_base=False)
        run, method, step = checkpoint.run, checkpoint.card.method, checkpoint.card.steps
        column = replace(column, label=f"{run} step {step}")
        strength = settings.strength
        place = folder / "pictures" / f"strength-{strength:g}"
    try:
        generated = generate_missing(pipe, [column], settings, place, lambda *_: on_image())
    except StudioError:
        if checkpoint is not None:
            check_checkpoint_exists(checkpoint.path)
        raise
    files = [generated[column.label][pair] for pair in settings.pairs]
    scores = judges.judge([read_image(file) for file in files], [p for p, _ in settings.pairs])
    nearest = scores.pop("nearest")
    return FidelityPoint(
        run=run,
        method=method,
        step=step,
        is_final=checkpoint is not None and checkpoint.is_final,
        adapter="" if checkpoint is None else str(checkpoint.path),
        strength=strength,
        scores={name: score_of(values.tolist(), settings) for name, values in scores.items()},
        nearest=nearest.mean().item(),
        copies=(nearest > judges.nearest_photos).float().mean().item(),
        pictures=tuple(file.relative_to(folder).as_posix() for file in files),
    )


def score_of(values: Sequence[float], settings: GenerationSettings) -> Score:
    """Return a score with its interval, over prompts, or over seeds if there is one prompt."""
    units = list(mean_by_prompt(values, settings).values()) if len(settings.prompts) > 1 else values
    if len(units) < 2:
        return Score(tuple(units))
    _, low, high = paired_difference(units, [0.0] * len(units))
    return Score(tuple(units), low, high)


def units_of(settings: GenerationSettings) -> int:
    """Return the number of independent units: prompts, or seeds if there is one prompt."""
    return len(settings.prompts) if len(settings.prompts) > 1 else len(settings.seeds)


def plan_points(
    checkpoints: Sequence[Checkpoint], strengths: Sequence[float]
) -> Iterator[tuple[Checkpoint, float]]:
    """Yield every point, strength 1 and final adapters first, to make partial results useful."""
    ends_first = sorted(checkpoints, key=lambda checkpoint: not checkpoint.is_final)
    for strength in sorted(strengths, key=lambda value: abs(value - 1)):
        for checkpoint in ends_first:
            yield checkpoint, strength
