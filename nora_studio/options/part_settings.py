"""Resolve each part's rank, scale and rate from recommendations, options and overrides."""

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError, format_value, suggestion
from nora_studio.options.config import PART_FIELDS, DreamboothOptions, PartOptions
from nora_studio.options.defaults import foreign_option_error
from nora_studio.options.groups.checks import check_option
from nora_studio.options.recommended import rate_of, recommended


@dataclass(frozen=True)
class PartSettings:
    """Resolved settings of a part of a run. Alpha is None for the method's usual scale."""

    rank: int
    outer_rank: int | None
    alpha: float | None
    learning_rate: float


class Usual(Protocol):
    """Recommended settings of a method."""

    @property
    def rank(self) -> int:
        """The rank, as the table of methods counts it."""
        ...

    @property
    def outer_rank(self) -> int | None:
        """NoRA's outer rank; None for other methods."""
        ...

    @property
    def alpha(self) -> float | None:
        """Alpha, where the scale is alpha / rank; None for the method's usual scale."""
        ...

    def learning_rate(self, part: str) -> float:
        """Return a part's peak learning rate."""
        ...


def part_settings(options: DreamboothOptions, method: str) -> dict[str, PartSettings]:
    """Resolve the settings of each trained part of SDXL for one method."""
    return resolve(options, method, PART_FIELDS, recommended(method, options.model))


def resolve(
    options: Any, method: str, parts: Sequence[str], usual: Usual, tuner: str | None = None
) -> dict[str, PartSettings]:
    """Resolve the settings of each trained part for one method, overrides applied.

    Args:
        options: A trainer's options: a `PartOptions` under each part's name, LearningOptions and
            TuningOptions.
        method: The method's name in the run.
        parts: Names of the model's parts.
        usual: Recommended settings, for options that are not given.
        tuner: The method's name in `METHODS`, if it is another.

    Raises:
        StudioError: an override names something unknown, or an option does not fit the method.
    """
    own = settings_of(tuner or method)
    settings: dict[str, PartSettings] = {}
    for part in parts:
        _check_part(options, method, part, own)
        wanted = _with_overrides(options, method, part, parts)
        if not wanted.train:
            continue
        usual_rate = usual.learning_rate(part) * rate_of(options.optimizer)
        rate = usual_rate if wanted.learning_rate is None else wanted.learning_rate
        outer_rank = usual.outer_rank if wanted.outer_rank is None else wanted.outer_rank
        resolved = PartSettings(
            rank=usual.rank if wanted.rank is None else wanted.rank,
            outer_rank=outer_rank if "outer_rank" in own else None,
            alpha=(usual.alpha if wanted.alpha is None else wanted.alpha)
            if "alpha" in own
            else None,
            learning_rate=rate,
        )
        check_option(resolved.rank >= 1, f"{part}.rank", "at least 1", resolved.rank)
        check_option(rate > 0, f"{part}.learning_rate", "above 0", rate)
        alpha = resolved.alpha
        check_option(alpha is None or alpha > 0, f"{part}.alpha", "above 0", alpha)
        settings[part] = resolved
    if not settings:
        raise StudioError(f"{method}: every part is switched off; train at least one.")
    return settings


def _check_part(options: Any, method: str, part: str, own: frozenset[str]) -> None:
    """Refuse a part's option that no twin has, and an override that its twin does not have."""
    for name in ("outer_rank", "alpha"):
        flag = f"{part}.{name}".replace("_", "-")
        given = getattr(getattr(options, part), name) is not None
        if given and not any(name in settings_of(m) for m in options.methods):
            raise foreign_option_error(flag, name, options.method)
        for entry in options.override:
            key = entry.partition("=")[0].strip().replace("-", "_")
            mine = f"{method}.{part}.{name}".replace("-", "_")
            if key == mine and name not in own:
                raise foreign_option_error(f"override {entry}", name, method)


def parts_along_inputs(settings: Mapping[str, Mapping[str, PartSettings]]) -> list[str]:
    """Return the parts whose mean inputs `--outer activation` needs.

    Args:
        settings: Method -> trained part -> its settings.
    """
    own = [parts for method, parts in settings.items() if "outer" in settings_of(method)]
    return list(dict.fromkeys(part for parts in own for part in parts))


def settings_of(method: str) -> frozenset[str]:
    """Return the names of a method's settings; none for a method that is not in the table."""
    return METHODS[method].settings if method in METHODS else frozenset()


def _with_overrides(options: Any, method: str, part: str, parts: Sequence[str]) -> PartOptions:
    part_options: PartOptions = getattr(options, part)
    hints = get_type_hints(PartOptions)
    for entry in options.override:
        key, equals, text = entry.partition("=")
        pieces = key.split(".")
        if not equals or len(pieces) != 3:
            raise StudioError(
                f"--override: expected METHOD.PART.OPTION=VALUE; got {entry!r} "
                f"(an example: lora.{parts[0]}.rank=16)."
            )
        for piece, known in zip(pieces, (options.methods, tuple(parts), tuple(hints)), strict=True):
            if piece not in known and piece.replace("-", "_") not in known:
                raise StudioError(
                    f"--override {entry!r}: {piece!r} is not one of {', '.join(known)}."
                    + suggestion(piece, known)
                )
        if pieces[0] == method and pieces[1].replace("-", "_") == part:
            option = pieces[2].replace("-", "_")
            part_options = dataclasses.replace(
                part_options, **{option: _parse_value(entry, text, hints[option])}
            )
    return part_options


def _parse_value(entry: str, text: str, hint: object) -> bool | int | float:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
        wanted = bool if hint is bool else int if "int" in str(hint) else float
        if wanted is float and type(value) is int:
            value = float(value)
    except (ValueError, OverflowError, RecursionError) as error:
        key = entry.partition("=")[0]
        raise StudioError(
            f"--override {key}: expected a number, true or false; got {format_value(text)}."
        ) from error
    if type(value) is not wanted:
        raise StudioError(f"--override {entry!r}: expected {wanted.__name__}; got {text!r}.")
    return value
