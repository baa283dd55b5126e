"""Comparison of adapters on the same prompts, seeds and starting noise: images and scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from PIL import Image

from nora_studio.adapters.files.adapter_file import AdapterFile, open_subject_adapter
from nora_studio.adapters.methods.table import METHOD_NAMES
from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image
from nora_studio.scoring.dino import Dino
from nora_studio.scoring.scores import Scorer, score_images
from nora_studio.scoring.statistics import format_signed, paired_difference, verdict
from nora_studio.sdxl.columns import (
    BASE,
    ComparisonColumn,
    GenerationSettings,
    Pair,
    PlannedImage,
    UsedAdapter,
    plan_images,
    run_name,
)
from nora_studio.sdxl.generate import default_batch, generate_images, save_image
from nora_studio.sdxl.pipeline_cache import PipelineCache


@dataclass(frozen=True)
class ScoreDifference:
    """The paired difference of one score between two columns."""

    score: str
    first: str
    second: str
    mean: float
    """Mean of first minus second."""
    low: float
    high: float
    """Ends of the 95% interval."""
    units: int
    """Number of independent units."""
    verdict: str
    """What the difference shows, in words."""

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """A row for a table: score, pair, difference, interval, verdict."""
        return (
            self.score,
            f"{self.first} − {self.second}",
            format_signed(self.mean),
            f"{format_signed(self.low)} to {format_signed(self.high)}",
            self.verdict,
        )


ImageFiles = dict[str, dict[Pair, Path]]
"""Files by column label and (prompt, seed)."""
Scores = dict[str, dict[str, list[float]]]
"""Values by score and column label, one per image, in the order of `GenerationSettings.pairs`."""


def adapter_columns(
    paths: Sequence[Path | AdapterFile],
    with_base: bool = True,
    *,
    weights: Sequence[float] = (),
    strengths: Sequence[float] = (),
    together: bool = False,
) -> list[ComparisonColumn]:
    """Make the columns of a comparison, the base first, named by method or else by run.

    Args:
        weights: Each adapter's own strength, in the same order. Empty: 1 for each.
        strengths: Factors on the adapters' strengths; each gives a column for every adapter.
        together: Put all adapters in one column.

    Raises:
        StudioError: an adapter cannot be read, is given twice or has the same name as another; or
            the numbers of weights and adapters differ.
    """
    adapters = [open_subject_adapter(path) for path in paths]
    own = [adapter.card.method for adapter in adapters]
    methods = [METHOD_NAMES.get(method, method) for method in own]
    labels = methods if len(set(methods)) == len(methods) else [run_name(a.path) for a in adapters]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated is not None:
        raise StudioError(
            f"--adapters: expected adapters with different names; got two named {repeated!r}. Give "
            "each adapter once, and rename runs that have the same name."
        )
    if BASE in labels:
        raise StudioError(
            f"--adapters: expected other names than {BASE!r}, the name of the base's own column. "
            f"Rename the folder {adapters[labels.index(BASE)].path}."
        )
    if weights and len(weights) != len(adapters):
        raise StudioError(
            f"--weights: expected one number for each of {len(adapters)} adapters; got "
            f"{len(weights)}."
        )
    _check_strengths([*weights, *strengths])
    used = [
        UsedAdapter(*one) for one in zip(adapters, weights or [1.0] * len(adapters), strict=True)
    ]
    columns = [ComparisonColumn(label, (use,)) for label, use in zip(labels, used, strict=True)]
    if together and used:
        columns = [ComparisonColumn(" + ".join(labels), tuple(used))]
    if strengths:
        columns = [_with_strength(column, s) for column in columns for s in strengths]
    return ([ComparisonColumn(BASE)] if with_base else []) + columns


def _check_strengths(strengths: Sequence[float]) -> None:
    if not all(abs(strength) < 1e6 for strength in strengths):
        raise StudioError(f"expected strengths between -1e6 and 1e6; got {list(strengths)}.")


def _with_strength(column: ComparisonColumn, strength: float) -> ComparisonColumn:
    """Return the column with its strength multiplied, and with the factor in its label."""
    return replace(column.with_strength(strength), label=f"{column.label} × {strength:g}")


def generate_missing(
    pipe: StableDiffusionXLPipeline,
    columns: Sequence[ComparisonColumn],
    settings: GenerationSettings,
    folder: Path,
    on_image: Callable[[str, int, int], object] | None = None,
) -> ImageFiles:
    """Generate the images that `folder` lacks, and return every image's file.

    Args:
        folder: Holds one folder of PNG files for each column; images with the same recipe are kept.
        on_image: Called for each image, generated or found, with (label, number, total).
    """
    planned = plan_images(pipe, columns, settings, folder)
    image_files: ImageFiles = {column.label: {} for column in columns}
    for planned_image in planned:
        image_files[planned_image.column.label][planned_image.pair] = planned_image.file
    numbers = dict.fromkeys(image_files, 0)
    # One adapter after the other, so that only the current one takes memory.
    for planned_image in generate_planned(PipelineCache(pipe, keep=1), planned, settings):
        label = planned_image.column.label
        numbers[label] += 1
        if on_image is not None:
            on_image(label, numbers[label], len(settings.pairs))
    return image_files


def generate_planned(
    pipes: PipelineCache, planned: Sequence[PlannedImage], settings: GenerationSettings
) -> Iterator[PlannedImage]:
    """Generate the planned images that are missing, and yield each image once it exists.

    If all adapters stay loaded, the rows of one batch are finished in every column before the next
    ones; otherwise one column is finished after the other.
    """
    batch = default_batch(pipes.base, settings.size)
    adapters = {use.path for image in planned for use in image.column.adapters}
    rows = batch if len(adapters) <= pipes.keep else len(settings.pairs)
    for start in range(0, len(settings.pairs), rows):
        chunk = set(settings.pairs[start : start + rows])
        for label in dict.fromkeys(image.column.label for image in planned):
            own = [
                image for image in planned if image.column.label == label and image.pair in chunk
            ]
            missing = {image.pair: image for image in own if not image.is_generated}
            yield from (image for image in own if image.pair not in missing)
            yield from _generate_missing_of_column(pipes, missing, settings)


def _generate_missing_of_column(
    pipes: PipelineCache, missing: Mapping[Pair, PlannedImage], settings: GenerationSettings
) -> Iterator[PlannedImage]:
    """Generate one column's missing images, in the order of the settings."""
    if not missing:
        return
    column = next(iter(missing.values())).column.with_strength(settings.strength)
    generated = generate_images(
        pipes.with_adapters(column.active_adapters),
        settings.prompts,
        settings.seeds,
        steps=settings.steps,
        guidance=settings.guidance,
        size=settings.size,
        negative=settings.negative,
        trigger=column.trigger,
        done={pair for pair in settings.pairs if pair not in missing},
    )
    for prompt, seed, image in generated:
        planned_image = missing[prompt, seed]
        save_image(image, planned_image.file, planned_image.recipe)
        yield planned_image


def score_columns(
    scorer: Scorer,
    image_files: ImageFiles,
    settings: GenerationSettings,
    references: Sequence[Image.Image] | None = None,
    dino: Dino | None = None,
) -> Scores:
    """Score every image of every column; CLIP-I and DINO only if there are real photos."""
    scores: Scores = {}
    prompts = [prompt for prompt, _ in settings.pairs]
    for label, files in image_files.items():
        images = [read_image(files[pair]) for pair in settings.pairs]
        for name, values in score_images(scorer, images, prompts, references, dino):
            scores.setdefault(name, {})[label] = values.tolist()
    return scores


def read_image(file: Path) -> Image.Image:
    """Read an image in RGB.

    Raises:
        StudioError: the image has too many pixels.
    """
    with open_image(file) as image:
        return image.convert("RGB")


def find_differences(scores: Scores, settings: GenerationSettings) -> Iterator[ScoreDifference]:
    """Compare each later column with each earlier one; comparisons with the base come last.

    Images of one prompt are alike, so prompts are the independent units; with a single prompt, its
    seeds are. A single image has no interval and gives no difference. `statistics.coverage` says
    what the intervals cover.
    """
    groups = [prompt for prompt, _ in settings.pairs]
    unit, units = "prompts", len(settings.prompts)
    if units == 1:
        groups, unit, units = list(range(len(settings.seeds))), "seeds", len(settings.seeds)
    if units < 2:
        return
    for name, by_label in scores.items():
        pairs = sorted(combinations(by_label, 2), key=lambda pair: BASE in pair)
        for second, first in pairs:
            difference = paired_difference(by_label[first], by_label[second], groups)
            words = verdict(difference, units, first, second, unit)
            yield ScoreDifference(name, first, second, *difference, units, words)


def mean_by_prompt(values: Sequence[float], settings: GenerationSettings) -> dict[str, float]:
    """Return one column's mean score of each prompt over its seeds."""
    count = len(settings.seeds)
    return {
        prompt: sum(values[i * count : (i + 1) * count]) / count
        for i, prompt in enumerate(settings.prompts)
    }
