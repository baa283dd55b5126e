"""Adapters side by side: the same prompts, seeds and starting noise, scored and told in words."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from PIL import Image

from nora_studio import __version__
from nora_studio.dino import Dino
from nora_studio.errors import StudioError
from nora_studio.files import CARD, AdapterCard, find_adapter, read_card
from nora_studio.fingerprints import fingerprint
from nora_studio.formats.embeddings import embeddings_beside
from nora_studio.generate import Recipe, adapter_on, draw, read_recipe, save_picture
from nora_studio.models import parts_of
from nora_studio.scores import Scorer, paired_difference, score_pictures, verdict

BASE = "base"
METHOD_NAMES = {"lora": "LoRA", "nora": "NoRA"}


@dataclass(frozen=True)
class Entrant:
    """One column of a comparison: an adapter, or the bare base."""

    label: str
    path: Path | None = None
    """Adapter folder; None for the base."""
    card: AdapterCard | None = None


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
    """Factor on every adapter's change."""

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Every (prompt, seed), prompts in the outer loop."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


@dataclass(frozen=True)
class Finding:
    """One paired comparison of two entrants by one score."""

    score: str
    first: str
    second: str
    mean: float
    """Of first minus second."""
    low: float
    high: float
    """Ends of the 95% interval."""
    units: int
    """Independent units behind the interval."""
    verdict: str

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        """For a table: score, who against whom, difference, interval, verdict."""
        return (
            self.score,
            f"{self.first} − {self.second}",
            _signed(self.mean),
            f"{_signed(self.low)} to {_signed(self.high)}",
            self.verdict,
        )


def _signed(value: float) -> str:
    """Three decimals with a true minus sign, and no sign on what rounds to zero."""
    text = f"{value:+.3f}".replace("-", "−")
    return "0.000" if text[1:] == "0.000" else text


Pictures = dict[str, dict[tuple[str, int], Path]]
"""Label -> (prompt, seed) -> file."""
Scores = dict[str, dict[str, list[float]]]
"""Score's name -> label -> one value a picture, in the order of `Drawing.pairs`."""


def enter_adapters(paths: Sequence[Path], with_base: bool = True) -> list[Entrant]:
    """Name the columns: by method, or by run where two share a method; the base comes first.

    Raises:
        StudioError: an adapter cannot be read, is given twice, or would bear another one's name.
    """
    folders = [find_adapter(path) for path in paths]
    cards = [read_card(folder) for folder in folders]
    methods = [METHOD_NAMES.get(card.method, card.method) for card in cards]
    labels = methods if len(set(methods)) == len(methods) else [run_name(f) for f in folders]
    repeated = next((label for label in labels if labels.count(label) > 1), None)
    if repeated is not None or BASE in labels:
        raise StudioError(
            f"--adapters: two would be called {repeated or BASE!r}. Give each adapter once, from "
            "runs of different names."
        )
    base = [Entrant(BASE)] if with_base else []
    return base + [Entrant(*entry) for entry in zip(labels, folders, cards)]


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


def draw_missing(
    pipe: StableDiffusionXLPipeline,
    entrants: Sequence[Entrant],
    drawing: Drawing,
    folder: Path,
    on_picture: Callable[[str, int, int], object] | None = None,
) -> Pictures:
    """Draw what is not yet in `folder` with the very same recipe; give back every picture's file.

    Args:
        folder: Holds one folder of PNG files for each entrant.
        on_picture: Called once a picture, drawn or found, with (label, number, how many in all).
    """
    pictures: Pictures = {}
    for entrant in entrants:
        weights = weights_digest(pipe, entrant.path)
        recipes = {
            pair: _recipe(entrant, drawing, prompt=pair[0], seed=pair[1], weights=weights)
            for pair in drawing.pairs
        }
        files = {pair: folder / _slug(entrant.label) / _file_name(*pair) for pair in recipes}
        pictures[entrant.label] = files
        done = {pair for pair, file in files.items() if _is_drawn(file, recipes[pair])}
        ready = partial(_count, on_picture, entrant.label, len(files))
        for number in range(1, len(done) + 1):
            ready(number)
        if len(done) == len(files):
            continue
        with adapter_on(pipe, entrant.path, drawing.strength) as card:
            drawn = draw(
                pipe,
                drawing.prompts,
                drawing.seeds,
                steps=drawing.steps,
                guidance=drawing.guidance,
                size=drawing.size,
                negative=drawing.negative,
                trigger=card.trigger if card is not None else None,
                done=done,
            )
            for number, (prompt, seed, picture) in enumerate(drawn, start=len(done) + 1):
                save_picture(picture, files[prompt, seed], recipes[prompt, seed])
                ready(number)
    return pictures


def _count(
    on_picture: Callable[[str, int, int], object] | None, label: str, total: int, number: int
) -> None:
    if on_picture is not None:
        on_picture(label, number, total)


def weights_digest(pipe: StableDiffusionXLPipeline, adapter: Path | None) -> str:
    """Short digest of the base's fingerprints, its precision and the adapter's files."""
    digest = hashlib.sha256()
    for module in (*parts_of(pipe).values(), pipe.vae):
        digest.update(repr((fingerprint(module), str(pipe.unet.dtype))).encode())
    if adapter is not None:
        files = [file for file in adapter.rglob("*") if file.is_file() and file.name != CARD]
        for file in sorted(files):
            digest.update(str(file.relative_to(adapter)).encode() + file.read_bytes())
        if adapter.is_file():
            beside = embeddings_beside(adapter)
            for file in (adapter, *([beside] if beside.is_file() else [])):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def score_entrants(
    scorer: Scorer,
    pictures: Pictures,
    drawing: Drawing,
    references: Sequence[Image.Image] | None = None,
    dino: Dino | None = None,
) -> Scores:
    """Score every picture of every entrant; CLIP-I and DINO only where there are real photos."""
    scores: Scores = {}
    prompts = [prompt for prompt, _ in drawing.pairs]
    for label, files in pictures.items():
        images = [open_picture(files[pair]) for pair in drawing.pairs]
        for name, values in score_pictures(scorer, images, prompts, references, dino):
            scores.setdefault(name, {})[label] = values.tolist()
    return scores


def open_picture(file: Path) -> Image.Image:
    """Read one drawn picture whole, in RGB."""
    with Image.open(file) as image:
        return image.convert("RGB")


def find_differences(scores: Scores, drawing: Drawing) -> Iterator[Finding]:
    """Compare each later column with each earlier one, adapters before comparisons with the base.

    Seeds of one prompt are alike, so prompts are the independent units; with a single prompt its
    seeds are. A single picture has no interval and gives no finding.
    """
    groups = [prompt for prompt, _ in drawing.pairs]
    unit, units = "prompts", len(drawing.prompts)
    if units == 1:
        groups, unit, units = list(range(len(drawing.seeds))), "seeds", len(drawing.seeds)
    if units < 2:
        return
    for name, columns in scores.items():
        pairs = sorted(combinations(columns, 2), key=lambda pair: BASE in pair)
        for second, first in pairs:
            difference = paired_difference(columns[first], columns[second], groups)
            words = verdict(difference, units, first, second, unit)
            yield Finding(name, first, second, *difference, units, words)


def mean_by_prompt(values: Sequence[float], drawing: Drawing) -> dict[str, float]:
    """One entrant's score of each prompt, over its seeds."""
    count = len(drawing.seeds)
    return {
        prompt: sum(values[i * count : (i + 1) * count]) / count
        for i, prompt in enumerate(drawing.prompts)
    }


def _recipe(entrant: Entrant, drawing: Drawing, prompt: str, seed: int, weights: str) -> Recipe:
    recipe = Recipe(
        model=drawing.model,
        prompt=prompt,
        seed=seed,
        steps=drawing.steps,
        guidance=drawing.guidance,
        size=drawing.size,
        version=__version__,
        negative=drawing.negative,
        weights=weights,
    )
    if entrant.path is None or entrant.card is None:
        return recipe
    return replace(
        recipe,
        adapter=run_name(entrant.path),
        method=entrant.card.method,
        strength=drawing.strength,
        trigger=entrant.card.trigger,
    )


def _is_drawn(file: Path, recipe: Recipe) -> bool:
    try:
        return file.is_file() and read_recipe(file) == recipe
    except StudioError:
        return False  # damaged or another program's: drawn anew


def _file_name(prompt: str, seed: int) -> str:
    """Short and readable, and different for different prompts."""
    mark = hashlib.sha256(prompt.encode()).hexdigest()[:6]
    return f"{_slug(prompt)[:48].strip('-')}-{mark}-seed{seed}.png"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "picture"
