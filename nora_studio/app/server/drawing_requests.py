"""What the drawing server is asked for, as it travels in JSON: checked word by word."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from nora_studio.errors import StudioError
from nora_studio.options.number_ranges import MAXIMUM_SEED, RANDOM_SEED, check_number
from nora_studio.options.paths import check_text

TEXT_LIMIT = 20_000
"""Characters of a prompt, a path or a label: far more than is ever read of one."""

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class AdapterChoice:
    """An adapter by its path, and how much of it."""

    path: str
    """Run folder, adapter folder, checkpoint or adapter file."""
    strength: float = 1.0
    """Factor on its change: 1 is as trained, 0 is the base."""


@dataclass(frozen=True)
class Column:
    """One column of a drawing."""

    label: str
    adapters: tuple[AdapterChoice, ...] = ()
    """None: the bare base. Several: their changes add up."""
    rare_word: str | None = None
    """Of the bare base: what it reads for "[V]". None: nothing; "auto": the word that the trainer
    would choose."""


@dataclass(frozen=True)
class DrawingRequest:
    """A whole drawing: every column draws every prompt with every seed."""

    columns: tuple[Column, ...]
    prompts: tuple[str, ...]
    """With "[V]" for the subject."""
    seeds: tuple[int, ...] = (0,)
    model: str | None = None
    """Base: "embedded", a diffusers directory or a Hub name. None: the first adapter's own."""
    steps: int = 25
    """Denoising steps."""
    guidance: float = 5.0
    """Classifier-free guidance; at 1 or below there is none."""
    size: int | None = None
    """Side in pixels, a multiple of 8. None: as trained."""
    negative: str | None = None
    """What guidance leads away from."""
    precision: Precision = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU."""
    score: bool = False
    """Whether the pictures are scored when all are there."""
    references: tuple[str, ...] = ()
    """Photos of the subject for CLIP-I."""
    clip: str | None = None
    """Judge of the pictures: "embedded", an open_clip folder, hf-hub:owner/name, or such as
    ViT-B-32:openai. None: the server's own, or the embedded one on the embedded base."""

    @property
    def count(self) -> int:
        """Pictures in all."""
        return len(self.columns) * len(self.prompts) * len(self.seeds)

    def as_json(self) -> dict[str, Any]:
        """As `parse_request` reads it back."""
        return asdict(self)


def parse_request(values: Any) -> DrawingRequest:
    """Read a request; nothing of it is trusted.

    Raises:
        StudioError: a name is unknown, or a value of another kind than expected or out of range.
    """
    values = _known(values, DrawingRequest, "a drawing")
    columns = [_column(one) for one in _list(values, "columns")]
    labels = [column.label for column in columns]
    if len(set(labels)) < len(labels):
        raise StudioError("columns: two of them have the same label. Give each one of its own.")
    size = values.get("size")
    seeds = _list(values, "seeds") if "seeds" in values else [0]
    return DrawingRequest(
        columns=tuple(columns),
        prompts=_distinct("prompts", [_text(one, "prompts") for one in _list(values, "prompts")]),
        seeds=_distinct("seeds", [_seed(one) for one in seeds]),
        model=_optional_text(values, "model"),
        steps=_whole(values.get("steps", 25), "steps", 1, 1000),
        guidance=_number(values.get("guidance", 5.0), "guidance", 0, 100),
        size=None if size is None else _whole(size, "size", 8, 8192),
        negative=_optional_text(values, "negative"),
        precision=_precision(values.get("precision", "auto")),
        score=values.get("score") is True,
        references=tuple(_text(one, "references") for one in _several(values, "references")),
        clip=_optional_text(values, "clip"),
    )


def _column(values: Any) -> Column:
    values = _known(values, Column, "a column")
    adapters = []
    for one in _several(values, "adapters"):
        one = _known(one, AdapterChoice, "an adapter")
        strength = _number(one.get("strength", 1.0), "strength", -10, 10)
        adapters.append(AdapterChoice(_text(one.get("path"), "path"), strength))
    return Column(
        _text(values.get("label"), "label"), tuple(adapters), _optional_text(values, "rare_word")
    )


def _known(values: Any, kind: type, what: str) -> Mapping[str, Any]:
    names = [field.name for field in fields(kind)]
    if not isinstance(values, Mapping):
        raise StudioError(f"expected {what} as a table of {', '.join(names)}; got {values!r:.60}.")
    for name in values:
        if name not in names:
            raise StudioError(f"{what} has no {name!r:.60}; it has {', '.join(names)}.")
    return values


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if not isinstance(found, list | tuple) or not found:
        raise StudioError(f"{name}: expected at least one; got {found!r:.60}.")
    return list(found)


def _several(values: Mapping[str, Any], name: str) -> list[Any]:
    return _list(values, name) if values.get(name) else []


def _distinct(name: str, found: list[Any]) -> tuple[Any, ...]:
    repeated = next((one for one in found if found.count(one) > 1), None)
    if repeated is not None:
        raise StudioError(f"{name}: {repeated!r:.60} is given more than once. Give each once.")
    return tuple(found)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise StudioError(f"{name}: expected some words; got {value!r:.60}.")
    if len(value) > TEXT_LIMIT:
        raise StudioError(
            f"{name}: expected at most {TEXT_LIMIT:,} characters; got {len(value):,}. Shorten it."
        )
    check_text(value, name)
    return value.strip()


def _optional_text(values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    return None if value is None or value == "" else _text(value, name)


def _whole(value: Any, name: str, low: int, high: int) -> int:
    is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
    if not is_whole or not low <= value <= high:
        raise StudioError(
            f"{name}: expected a whole number from {low} to {high}; got {value!r:.60}."
        )
    return int(value)


def _seed(value: Any) -> int:
    return int(check_number(_whole(value, "seeds", RANDOM_SEED, MAXIMUM_SEED), "seeds", "seeds"))


def _number(value: Any, name: str, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:  # NaN is in no range.
        raise StudioError(f"{name}: expected a number from {low:g} to {high:g}; got {value!r:.60}.")
    return float(value)


def _precision(value: Any) -> Precision:
    if value not in get_args(Precision):
        words = ", ".join(get_args(Precision))
        raise StudioError(f"precision: expected one of {words}; got {value!r:.60}.")
    return value
