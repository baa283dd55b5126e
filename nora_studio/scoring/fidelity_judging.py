"""Draw checkpoints at several strengths and judge them: what `fidelity.py` is concluded from."""

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
    Drawing,
    Entrant,
    draw_missing,
    enter_adapters,
    mean_by_prompt,
    open_picture,
    run_name,
)
from nora_studio.scoring.dino import Dino
from nora_studio.scoring.fidelity import PROMPT_SCORE, Point, Score
from nora_studio.scoring.scores import Scorer
from nora_studio.scoring.statistics import paired_difference


@dataclass(frozen=True)
class Checkpoint:
    """An adapter as of one step of its training."""

    run: str
    path: Path
    """As it was named."""
    adapter: AdapterFile
    is_final: bool

    @property
    def card(self) -> AdapterCard:
        """The adapter's."""
        return self.adapter.card


def find_checkpoints(path: Path, last: int) -> list[Checkpoint]:
    """A run's last checkpoints and its final adapter, by step; of anything else, itself alone.

    Args:
        last: Checkpoints before the final adapter; one of the very same step is left out.

    Raises:
        StudioError: nothing there is an adapter.
    """
    run = Run(path)
    final = None if run.exists and not run.adapter.is_dir() else open_subject_adapter(path)
    shown = path if final is None else final.path
    name = run.folder.resolve().name if run.exists else run_name(shown)
    ends = [] if final is None else [Checkpoint(name, path, final, is_final=True)]
    steps = {one.card.steps for one in ends}
    before = [(step, folder) for step, folder in run.checkpoints().items() if step not in steps]
    chosen = before[-last:] if last else []
    found = [
        Checkpoint(name, folder, open_subject_adapter(folder), is_final=False)
        for _, folder in chosen
    ]
    if not found + ends:
        raise StudioError(f"{path} is a run without a checkpoint yet. Wait for its first one.")
    return sorted(found + ends, key=lambda one: one.card.steps)


@dataclass(frozen=True)
class Panel:
    """Who judges, with the real photos and the prompts encoded once."""

    scorer: Scorer
    dino: Dino | None
    photos: Tensor  # (photos, width), unit vectors by CLIP
    dino_photos: Tensor | None  # (photos, width), unit vectors by DINO
    texts: Mapping[str, Tensor]  # prompt -> (width,), unit vectors

    @classmethod
    def seat(
        cls,
        scorer: Scorer,
        dino: Dino | None,
        photos: Sequence[Image.Image],
        prompts: Sequence[str],
    ) -> "Panel":
        """Encode what every picture is held against.

        Raises:
            StudioError: there are fewer than two photos, which have no likeness to each other.
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
            dict(zip(prompts, texts)),
        )

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> dict[str, Tensor]:
        """CLIP-T, CLIP-I, DINO and "nearest" of each picture with its own prompt, (images,) each.

        "nearest" is the likeness to the one photo that a picture is nearest to, by the judge of
        the subject.
        """
        seen = self.scorer.image_features(images)
        likeness = seen @ self.photos.T  # (images, photos)
        texts = torch.stack([self.texts[prompt] for prompt in prompts])
        scores = {PROMPT_SCORE: (seen * texts).sum(-1), "CLIP-I": likeness.mean(-1)}
        if self.dino is not None and self.dino_photos is not None:
            likeness = self.dino.features(images) @ self.dino_photos.T
            scores["DINO"] = likeness.mean(-1)
        return scores | {"nearest": likeness.amax(-1)}

    def real(self, units: int) -> dict[str, tuple[float, ...]]:
        """The photos' own scores: CLIP-T with every prompt, likeness to the other photos."""
        by_prompt = (self.photos @ torch.stack(list(self.texts.values())).T).mean(0).tolist()
        whole = by_prompt if len(by_prompt) > 1 else by_prompt * units
        scores = {PROMPT_SCORE: tuple(whole)}
        for name, photos in (("CLIP-I", self.photos), ("DINO", self.dino_photos)):
            if photos is not None:
                scores[name] = (_among_themselves(photos).mean().item(),) * units
        return scores

    @property
    def nearest_photos(self) -> float:
        """Likeness of those two photos that are most alike, by the judge of the subject."""
        photos = self.photos if self.dino_photos is None else self.dino_photos
        return _among_themselves(photos).max().item()


def _among_themselves(photos: Tensor) -> Tensor:
    """Likeness of every two different photos, (photos * (photos - 1),)."""
    others = ~torch.eye(len(photos), dtype=torch.bool)
    return (photos @ photos.T)[others]


def measure(
    pipe: StableDiffusionXLPipeline,
    panel: Panel,
    checkpoint: Checkpoint | None,
    drawing: Drawing,
    folder: Path,
    on_picture: Callable[[], object] = lambda: None,
) -> Point:
    """Draw and judge one point; pictures that are there with the same recipe are used again.

    Args:
        checkpoint: None is the bare base.
        drawing: Its strength is the point's.
        folder: Of the results; pictures go below it.
    """
    if checkpoint is None:
        entrant, place = Entrant(BASE), folder / "pictures"
        run, method, step, strength = BASE, BASE, 0, 0.0
    else:
        (entrant,) = enter_adapters([checkpoint.adapter], with_base=False)
        run, method, step = checkpoint.run, checkpoint.card.method, checkpoint.card.steps
        entrant = replace(entrant, label=f"{run} step {step}")
        strength = drawing.strength
        place = folder / "pictures" / f"strength-{strength:g}"
    try:
        drawn = draw_missing(pipe, [entrant], drawing, place, lambda *_: on_picture())
    except StudioError:
        if checkpoint is not None:
            check_checkpoint_exists(checkpoint.path)
        raise
    files = [drawn[entrant.label][pair] for pair in drawing.pairs]
    judged = panel.judge([open_picture(file) for file in files], [p for p, _ in drawing.pairs])
    nearest = judged.pop("nearest")
    return Point(
        run=run,
        method=method,
        step=step,
        is_final=checkpoint is not None and checkpoint.is_final,
        adapter="" if checkpoint is None else str(checkpoint.path),
        strength=strength,
        scores={name: score_of(values.tolist(), drawing) for name, values in judged.items()},
        nearest=nearest.mean().item(),
        copies=(nearest > panel.nearest_photos).float().mean().item(),
        pictures=tuple(file.relative_to(folder).as_posix() for file in files),
    )


def score_of(values: Sequence[float], drawing: Drawing) -> Score:
    """One score with its interval, by prompts; by seeds where there is one prompt."""
    units = list(mean_by_prompt(values, drawing).values()) if len(drawing.prompts) > 1 else values
    if len(units) < 2:
        return Score(tuple(units))
    _, low, high = paired_difference(units, [0.0] * len(units))
    return Score(tuple(units), low, high)


def units_of(drawing: Drawing) -> int:
    """Independent units: prompts, or seeds where there is one prompt."""
    return len(drawing.prompts) if len(drawing.prompts) > 1 else len(drawing.seeds)


def planned_points(
    checkpoints: Sequence[Checkpoint], strengths: Sequence[float]
) -> Iterator[tuple[Checkpoint, float]]:
    """Every point; those as trained first, so that a result cut short says most."""
    ends_first = sorted(checkpoints, key=lambda checkpoint: not checkpoint.is_final)
    for strength in sorted(strengths, key=lambda value: abs(value - 1)):
        for checkpoint in ends_first:
            yield checkpoint, strength
