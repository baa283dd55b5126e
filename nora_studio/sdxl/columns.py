"""The columns of a comparison, and the file and recipe of each of their images."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffusers import StableDiffusionXLPipeline

from nora_studio import __version__
from nora_studio.adapters.base_digests import base_digest
from nora_studio.adapters.files.adapter_file import AdapterFile, check_checkpoint_exists
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.sdxl.models import native_resolution, parts_of
from nora_studio.sdxl.recipes import Recipe, read_recipe

BASE = "base"
Pair = tuple[str, int]
"""Prompt and seed."""


@dataclass(frozen=True)
class UsedAdapter:
    """An adapter and its strength."""

    adapter: AdapterFile
    strength: float = 1.0
    """Factor on its change: 1 is as trained, 0 is the base."""

    @property
    def path(self) -> Path:
        """Adapter folder or file."""
        return self.adapter.path

    @property
    def card(self) -> AdapterCard:
        """The adapter's card."""
        return self.adapter.card


@dataclass(frozen=True)
class ComparisonColumn:
    """One column of a comparison: an adapter, several adapters at once, or the base alone."""

    label: str
    adapters: tuple[UsedAdapter, ...] = ()
    """Empty for the base; the changes of several adapters add up."""
    rare_word: str | None = None
    """The word that replaces "[V]" for the base. None: no word."""

    @property
    def path(self) -> Path | None:
        """The path of the first adapter; None for the base."""
        return self.adapters[0].path if self.adapters else None

    @property
    def card(self) -> AdapterCard | None:
        """The card of the first adapter; None for the base."""
        return self.adapters[0].card if self.adapters else None

    def with_strength(self, strength: float) -> "ComparisonColumn":
        """Return the column with every adapter's strength multiplied by a factor.

        At strength 0 an adapter and its trigger word are left out, so the column is the base.
        """
        used = (replace(use, strength=use.strength * strength) for use in self.adapters)
        return replace(self, adapters=tuple(used))

    @property
    def active_adapters(self) -> tuple[UsedAdapter, ...]:
        """The adapters whose strength is not 0."""
        return tuple(use for use in self.adapters if use.strength != 0)

    @property
    def trigger(self) -> str | None:
        """The text that replaces "[V]": the trigger words of all active adapters."""
        if not self.active_adapters:
            return self.rare_word
        words = dict.fromkeys(use.card.trigger for use in self.active_adapters if use.card.trigger)
        return " ".join(words) or None


@dataclass(frozen=True)
class GenerationSettings:
    """The settings with which the images of every column are generated."""

    model: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    size: int
    """Side in pixels."""
    negative: str | None = None
    strength: float = 1.0
    """Factor on every adapter's change, in addition to its own."""

    @property
    def pairs(self) -> list[Pair]:
        """Every (prompt, seed), prompts in the outer loop."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class PlannedImage:
    """An image to generate, and its file."""

    column: ComparisonColumn
    pair: Pair
    file: Path
    recipe: Recipe

    @property
    def is_generated(self) -> bool:
        """Whether the file exists, is complete and has this recipe."""
        return holds(self.file, self.recipe)


def base_of(columns: Sequence[ComparisonColumn], model: str | None) -> str:
    """Return the base to generate with: `model`, or the first adapter's own.

    Raises:
        StudioError: `model` is None and no adapter names its base.
    """
    cards = [use.card for column in columns for use in column.adapters]
    name = model or next((card.model for card in cards if card.model), None)
    if name is None and cards:
        raise StudioError(
            "--model: the adapter files do not name the base they were trained on. Name it with "
            "--model."
        )
    return name or EMBEDDED


def training_resolution(
    pipe: StableDiffusionXLPipeline, columns: Sequence[ComparisonColumn]
) -> int:
    """Return the side in pixels at which the first adapter, or else the base, was trained."""
    sizes = (column.card.resolution for column in columns if column.card is not None)
    return next(sizes, None) or native_resolution(pipe)


def holds(file: Path, recipe: Recipe) -> bool:
    """Return whether a file is a complete image with a recipe."""
    try:
        return file.is_file() and read_recipe(file) == recipe
    except StudioError:
        return False  # Damaged, or another program's: generated again.


def plan_images(
    pipe: StableDiffusionXLPipeline,
    columns: Sequence[ComparisonColumn],
    settings: GenerationSettings,
    folder: Path,
) -> list[PlannedImage]:
    """Return every image of a comparison, with columns in the outer loop.

    Args:
        pipe: The base, without adapters.
        folder: Holds one folder of PNG files for each column.

    Raises:
        StudioError: two columns have the same label.
    """
    labels = [column.label for column in columns]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated is not None:
        raise StudioError(
            f"expected columns with different names; got {repeated!r} twice. Rename one of them."
        )
    planned = []
    for column, name in zip(columns, _folder_names(labels), strict=True):
        weights = content_digest(pipe, *(use.adapter for use in column.adapters))
        for pair in settings.pairs:
            recipe = _recipe(column, settings, pair, weights)
            planned.append(PlannedImage(column, pair, folder / name / _file_name(*pair), recipe))
    return planned


def content_digest(pipe: StableDiffusionXLPipeline, *adapters: AdapterFile) -> str:
    """Return a short digest of the base's weights, its precision and the adapters' files."""
    digest = hashlib.sha256()
    for module in (*parts_of(pipe).values(), pipe.vae):
        digest.update(repr((fingerprint(module), str(pipe.unet.dtype))).encode())
        digest.update(base_digest(module).encode())
    for adapter in adapters:
        try:
            for file in adapter.files():
                name = str(file.relative_to(adapter.path)) if adapter.is_folder else ""
                digest.update(name.encode() + file.read_bytes())
        except OSError as error:
            check_checkpoint_exists(adapter.path)
            raise StudioError(f"{adapter.path} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()[:16]


def run_name(folder: Path) -> str:
    """Return a name for an adapter: its run, with the step for a checkpoint, or its file."""
    if folder.is_file():
        return folder.stem
    names = [part.name for part in (folder.resolve(), *folder.resolve().parents)]
    if names[0] == "adapter":
        names = names[1:]
    if names[0].startswith("step-") and names[1] == "checkpoints":
        return f"{names[2]} {names[0]}"
    return names[0]


def _recipe(
    column: ComparisonColumn, settings: GenerationSettings, pair: Pair, weights: str
) -> Recipe:
    recipe = Recipe(
        model=settings.model,
        prompt=pair[0],
        seed=pair[1],
        steps=settings.steps,
        guidance=settings.guidance,
        size=settings.size,
        version=__version__,
        trigger=column.with_strength(settings.strength).trigger,
        negative=settings.negative,
        weights=weights,
    )
    used = [
        (run_name(use.path), use.strength)
        for use in column.with_strength(settings.strength).adapters
    ]
    if not used:
        return recipe
    if len(used) == 1:
        method = column.adapters[0].card.method
        return replace(recipe, adapter=used[0][0], method=method, strength=used[0][1])
    names = " + ".join(name for name, _ in used)
    return replace(recipe, adapter=names, method="mix", strengths=[list(one) for one in used])


def _folder_names(labels: Sequence[str]) -> list[str]:
    """Return short, readable folder names, with a digest if two labels would get the same name."""
    names = [_slug(label) for label in labels]
    return [
        name if names.count(name) == 1 else f"{name}-{_short_digest(label)}"
        for name, label in zip(names, labels, strict=True)
    ]


def _file_name(prompt: str, seed: int) -> str:
    """Return a short, readable file name, different for different prompts."""
    return f"{_slug(prompt)[:48].strip('-')}-{_short_digest(prompt)}-seed{seed}.png"


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _slug(text: str) -> str:
    signed = re.sub(r"(?<!\w)-(?=[\d.])", "minus ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", signed).strip("-") or "picture"
