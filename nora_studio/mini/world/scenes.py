"""Scenes as tensors: the individual (identity), and how it is seen (view).

All shape, tint and light come from two tables of uniform numbers: a fixed row of `identity`
together with the identity's indices *is* an individual, and a row of `view` is one photo of it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Generator, Tensor

from nora_studio.errors import StudioError
from nora_studio.mini.world.subjects import SUBJECTS
from nora_studio.mini.world.vocabulary import CLASSES, COLOR_NAMES, NAMES, PATTERNS, PLACES

IDENTITY_NUMBERS = 24  # 0-5 proportions, 8-12 pattern, 13 eyes, 14-22 tints
VIEW_NUMBERS = (
    12  # 0-1 scenery seeds, 2 size, 3 shift, 4 depth, 5 tilt, 6 flip, 7 light, 8-11 place
)
VIEW_SIZE = 2
CHARACTER_SHARE = 0.12
_CHARACTER_SEED = 2408

_PATTERN_WEIGHTS = [0.31, 0.15, 0.14, 0.11, 0.10, 0.10, 0.09]
_EMBLEM_WEIGHTS = [0.72, 0.10, 0.10, 0.08]
_ACCESSORY_WEIGHTS = [0.50, 0.12, 0.08, 0.10, 0.12, 0.08]
_STYLE_WEIGHTS = [0.90, 0.05, 0.05]
# Characters are more striking than nameless individuals, so that a name is worth learning.
_CHARACTER_PATTERN_WEIGHTS = [0.16, 0.14, 0.14, 0.14, 0.14, 0.14, 0.14]
_CHARACTER_EMBLEM_WEIGHTS = [0.55, 0.15, 0.15, 0.15]


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. Index fields are int64 (count,); uniforms are float32 in [0, 1)."""

    kind: Tensor
    """Index into `CLASSES`."""
    main_color: Tensor
    """Index into `COLORS`, as are the two below."""
    second_color: Tensor
    """The pattern's other colour; never the main one."""
    accent_color: Tensor
    """Colour of emblem and accessory; never the main one."""
    pattern: Tensor
    """Index into `PATTERNS`."""
    emblem: Tensor
    """Index into `EMBLEMS`."""
    accessory: Tensor
    """Index into `ACCESSORIES`."""
    name: Tensor
    """Index into `NAMES`; -1 for a nameless individual."""
    place: Tensor
    """Index into `PLACES`."""
    background: Tensor
    """Colour of plain backgrounds, walls and tiles: index into `COLORS`."""
    style: Tensor
    """Index into `STYLES`."""
    identity: Tensor
    """(count, IDENTITY_NUMBERS): proportions and tints of the individual."""
    view: Tensor
    """(count, VIEW_NUMBERS): size, position, tilt, flip, light and scenery of this picture."""

    def __len__(self) -> int:
        return len(self.kind)

    def select(self, index: Tensor | slice) -> "Scenes":
        """Return the scenes at `index`: integers, a boolean mask, or a slice."""
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str) -> "Scenes":
        """Return the scenes on a device."""
        return Scenes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


IDENTITY_FIELDS = (
    "main_color", "second_color", "accent_color", "pattern", "emblem", "accessory", "identity",
)  # fmt: skip


def sample_scenes(count: int, seed: int) -> Scenes:
    """Sample random scenes on the CPU; the same arguments give the same scenes.

    About one in eight shows a character: its `name` and class fix its identity. No scene shows
    a held-out subject's class, pattern and pair of colours together.
    """
    generator = Generator().manual_seed(seed)
    strangers = _sample_strangers(count, generator, _PATTERN_WEIGHTS, _EMBLEM_WEIGHTS)
    is_character = torch.rand(count, generator=generator) < CHARACTER_SHARE
    name = torch.randint(len(NAMES), (count,), generator=generator)
    characters = _characters().select(name * len(CLASSES) + strangers.kind)
    identity = {
        field: _choose(is_character, getattr(characters, field), getattr(strangers, field))
        for field in IDENTITY_FIELDS
    }
    return replace(strangers, name=torch.where(is_character, name, -1), **identity)


def subject_scenes(name: str, places: Sequence[str], seed: int, count: int | None = None) -> Scenes:
    """Sample photos of one held-out subject, large in the picture, each from another view.

    Args:
        name: A key of `SUBJECTS`.
        places: Names from `PLACES`, taken in turn.
        seed: Seed of the views; the identity stays.
        count: Number of pictures. Default: one per place.

    Raises:
        StudioError: The subject or a place is unknown.
    """
    if name not in SUBJECTS:
        raise StudioError(f"name: expected one of {', '.join(SUBJECTS)}; got {name!r}.")
    unknown = [place for place in places if place not in PLACES]
    if unknown or not places:
        raise StudioError(f"places: expected some of {', '.join(PLACES)}; got {unknown or 'none'}.")
    subject = SUBJECTS[name]
    count = len(places) if count is None else count
    generator = Generator().manual_seed(seed)
    strangers = _sample_strangers(count, generator, _PATTERN_WEIGHTS, _EMBLEM_WEIGHTS)
    indices = {field: torch.full((count,), value) for field, value in subject.fields.items()}
    own = torch.rand(1, IDENTITY_NUMBERS, generator=Generator().manual_seed(subject.seed))
    view = strangers.view.clone()
    view[:, VIEW_SIZE] = 0.5 + 0.5 * view[:, VIEW_SIZE]
    background = strangers.background
    for _ in range(2):  # the subject must differ in colour from the wall
        for color in ("main_color", "second_color"):
            background = _avoid_color(background, indices[color])
    return replace(
        strangers,
        name=torch.full((count,), -1),
        place=torch.tensor([PLACES.index(places[i % len(places)]) for i in range(count)]),
        style=torch.zeros(count, dtype=torch.long),
        background=background,
        identity=own.repeat(count, 1),
        view=view,
        **indices,
    )


def is_held_out(scenes: Scenes) -> Tensor:
    """Return which scenes have a subject's class, pattern and pair of colours, in either order."""
    keys = _combination(scenes.kind, scenes.main_color, scenes.second_color, scenes.pattern)
    return torch.isin(keys, _held_out_combinations().to(keys.device))


def _sample_strangers(
    count: int,
    generator: Generator,
    pattern_weights: Sequence[float],
    emblem_weights: Sequence[float],
) -> Scenes:
    def weighted(weights: Sequence[float]) -> Tensor:
        return torch.multinomial(torch.tensor(weights), count, True, generator=generator)

    def index(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    colors = len(COLOR_NAMES)
    main_color = index(colors)
    scenes = Scenes(
        kind=index(len(CLASSES)),
        main_color=main_color,
        second_color=(main_color + 1 + index(colors - 1)) % colors,
        accent_color=(main_color + 1 + index(colors - 1)) % colors,
        pattern=weighted(pattern_weights),
        emblem=weighted(emblem_weights),
        accessory=weighted(_ACCESSORY_WEIGHTS),
        name=torch.full((count,), -1),
        place=index(len(PLACES)),
        background=index(colors),
        style=weighted(_STYLE_WEIGHTS),
        identity=torch.rand(count, IDENTITY_NUMBERS, generator=generator),
        view=torch.rand(count, VIEW_NUMBERS, generator=generator),
    )
    return _without_held_out(scenes)


@functools.lru_cache(maxsize=1)
def _characters() -> Scenes:
    """Return the characters' identities, one row per (name, class); their views are never used."""
    count = len(NAMES) * len(CLASSES)
    generator = Generator().manual_seed(_CHARACTER_SEED)
    everyone = _sample_strangers(
        count, generator, _CHARACTER_PATTERN_WEIGHTS, _CHARACTER_EMBLEM_WEIGHTS
    )
    kind = torch.arange(len(CLASSES)).repeat(len(NAMES))
    return _without_held_out(replace(everyone, kind=kind))


def _without_held_out(scenes: Scenes) -> Scenes:
    """Return scenes with another second colour where they would show a held-out subject."""
    while bool((held := is_held_out(scenes)).any()):
        moved = _avoid_color((scenes.second_color + 1) % len(COLOR_NAMES), scenes.main_color)
        scenes = replace(scenes, second_color=torch.where(held, moved, scenes.second_color))
    return scenes


def _choose(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (chosen.dim() - 1)), chosen, other)


def _avoid_color(color: Tensor, taken: Tensor) -> Tensor:
    """Return `color`, or the next one where it equals `taken`."""
    return torch.where(color == taken, (color + 1) % len(COLOR_NAMES), color)


def _combination(kind: Tensor, main: Tensor, second: Tensor, pattern: Tensor) -> Tensor:
    colors = len(COLOR_NAMES)
    low, high = torch.minimum(main, second), torch.maximum(main, second)
    return ((kind * colors + low) * colors + high) * len(PATTERNS) + pattern


@functools.lru_cache(maxsize=1)
def _held_out_combinations() -> Tensor:
    rows = [subject.fields for subject in SUBJECTS.values()]
    names = ("kind", "main_color", "second_color", "pattern")
    return _combination(*(torch.tensor([row[name] for row in rows]) for name in names))
