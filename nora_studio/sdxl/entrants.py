"""Who draws what: the columns of a comparison, and the place and recipe of each of its pictures."""

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
    """An adapter, and how much of it."""

    adapter: AdapterFile
    strength: float = 1.0
    """Factor on its change: 1 is as trained, 0 is the base."""

    @property
    def path(self) -> Path:
        """Adapter folder or file."""
        return self.adapter.path

    @property
    def card(self) -> AdapterCard:
        """The adapter's."""
        return self.adapter.card


@dataclass(frozen=True)
class Entrant:
    """One column of a comparison: an adapter, several of them at once, or the bare base."""

    label: str
    adapters: tuple[UsedAdapter, ...] = ()
    """None for the base; the changes of several add up."""
    rare_word: str | None = None
    """What the bare base reads for "[V]"; None: nothing."""

    @property
    def path(self) -> Path | None:
        """Where the only adapter, or the first of several, is; None for the base."""
        return self.adapters[0].path if self.adapters else None

    @property
    def card(self) -> AdapterCard | None:
        """Of the only adapter, or the first of several; None for the base."""
        return self.adapters[0].card if self.adapters else None

    def at(self, strength: float) -> "Entrant":
        """The column with every adapter's strength times another one.

        At 0 an adapter is off, and its rare word with it: such a column is the bare base.
        """
        used = (replace(use, strength=use.strength * strength) for use in self.adapters)
        return replace(self, adapters=tuple(used))

    @property
    def adapters_on(self) -> tuple[UsedAdapter, ...]:
        """The adapters that change anything: those whose strength is not 0."""
        return tuple(use for use in self.adapters if use.strength != 0)

    @property
    def trigger(self) -> str | None:
        """What "[V]" becomes: the rare word of every adapter that is on, each once."""
        if not self.adapters_on:
            return self.rare_word
        words = dict.fromkeys(use.card.trigger for use in self.adapters_on if use.card.trigger)
        return " ".join(words) or None


@dataclass(frozen=True)
class Drawing:
    """What every entrant draws."""

    model: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    size: int
    """Side in pixels."""
    negative: str | None = None
    strength: float = 1.0
    """Factor on every adapter's change, beside its own."""

    @property
    def pairs(self) -> list[Pair]:
        """Every (prompt, seed), prompts in the outer loop."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class PlannedPicture:
    """A picture that is, or is to be, in a file."""

    entrant: Entrant
    pair: Pair
    file: Path
    recipe: Recipe

    @property
    def is_drawn(self) -> bool:
        """Whether the file is there, whole and of this very recipe."""
        return holds(self.file, self.recipe)


def base_of(entrants: Sequence[Entrant], model: str | None) -> str:
    """The base that a drawing is made on: the one asked for, else the first adapter's own.

    Raises:
        StudioError: nobody names one.
    """
    cards = [use.card for entrant in entrants for use in entrant.adapters]
    name = model or next((card.model for card in cards if card.model), None)
    if name is None and cards:
        raise StudioError(
            "--model: the adapter files do not say what base they belong to. Name it."
        )
    return name or EMBEDDED


def trained_size(pipe: StableDiffusionXLPipeline, entrants: Sequence[Entrant]) -> int:
    """Side in pixels that the first adapter was trained at, or the bare base."""
    sizes = (entrant.card.resolution for entrant in entrants if entrant.card is not None)
    return next(sizes, None) or native_resolution(pipe)


def holds(file: Path, recipe: Recipe) -> bool:
    """Whether a file is a whole picture of that recipe."""
    try:
        return file.is_file() and read_recipe(file) == recipe
    except StudioError:
        return False  # damaged or another program's: drawn anew


def plan_pictures(
    pipe: StableDiffusionXLPipeline, entrants: Sequence[Entrant], drawing: Drawing, folder: Path
) -> list[PlannedPicture]:
    """Every picture of a comparison, entrants in the outer loop.

    Args:
        pipe: The base, bare.
        folder: Holds one folder of PNG files for each entrant.

    Raises:
        StudioError: two entrants share a label.
    """
    labels = [entrant.label for entrant in entrants]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated is not None:
        raise StudioError(f"two columns are called {repeated!r}. Give each a name of its own.")
    planned = []
    for entrant, name in zip(entrants, _folder_names(labels)):
        weights = weights_digest(pipe, *(use.adapter for use in entrant.adapters))
        for pair in drawing.pairs:
            recipe = _recipe(entrant, drawing, pair, weights)
            planned.append(PlannedPicture(entrant, pair, folder / name / _file_name(*pair), recipe))
    return planned


def weights_digest(pipe: StableDiffusionXLPipeline, *adapters: AdapterFile) -> str:
    """Short digest of the base's weights, its precision and the adapters' files."""
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
    """What to call an adapter: its run, with the step where it is a checkpoint; or its file."""
    if folder.is_file():
        return folder.stem
    names = [part.name for part in (folder.resolve(), *folder.resolve().parents)]
    if names[0] == "adapter":
        names = names[1:]
    if names[0].startswith("step-") and names[1] == "checkpoints":
        return f"{names[2]} {names[0]}"
    return names[0]


def _recipe(entrant: Entrant, drawing: Drawing, pair: Pair, weights: str) -> Recipe:
    recipe = Recipe(
        model=drawing.model,
        prompt=pair[0],
        seed=pair[1],
        steps=drawing.steps,
        guidance=drawing.guidance,
        size=drawing.size,
        version=__version__,
        trigger=entrant.at(drawing.strength).trigger,
        negative=drawing.negative,
        weights=weights,
    )
    used = [(run_name(use.path), use.strength) for use in entrant.at(drawing.strength).adapters]
    if not used:
        return recipe
    if len(used) == 1:
        method = entrant.adapters[0].card.method
        return replace(recipe, adapter=used[0][0], method=method, strength=used[0][1])
    names = " + ".join(name for name, _ in used)
    return replace(recipe, adapter=names, method="mix", strengths=[list(one) for one in used])


def _folder_names(labels: Sequence[str]) -> list[str]:
    """Short and readable; with a mark where two labels would come to one name."""
    names = [_slug(label) for label in labels]
    return [
        name if names.count(name) == 1 else f"{name}-{_mark(label)}"
        for name, label in zip(names, labels)
    ]


def _file_name(prompt: str, seed: int) -> str:
    """Short and readable, and different for different prompts."""
    return f"{_slug(prompt)[:48].strip('-')}-{_mark(prompt)}-seed{seed}.png"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _slug(text: str) -> str:
    signed = re.sub(r"(?<!\w)-(?=[\d.])", "minus ", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", signed).strip("-") or "picture"
