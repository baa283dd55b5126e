"""What each part of a run trains with: recommendations, options and overrides, resolved."""

import dataclasses
import tomllib
from dataclasses import dataclass
from typing import Any, get_type_hints

from nora_studio.config import PART_FIELDS, DreamboothOptions, PartOptions, suggestion
from nora_studio.defaults import foreign_option
from nora_studio.errors import StudioError
from nora_studio.methods.table import METHODS
from nora_studio.recommended import rate_of, recommended
from nora_studio.settings.checks import check_option


@dataclass(frozen=True)
class PartSettings:
    """One part of one run, resolved: no None left but alpha's, which means the rank."""

    rank: int
    outer_rank: int | None
    alpha: float | None
    learning_rate: float


def part_settings(options: DreamboothOptions, method: str) -> dict[str, PartSettings]:
    """The settings of each trained part for one method, overrides applied.

    Raises:
        StudioError: an override names nothing that exists, or an option does not fit the method.
    """
    usual, own = recommended(method, options.model), METHODS[method].settings
    settings: dict[str, PartSettings] = {}
    for part in PART_FIELDS:
        _check_part(options, method, part)
        wanted = _with_overrides(options, method, part)
        if not wanted.train:
            continue
        usual_rate = usual.learning_rate(part) * rate_of(options.optimizer)
        rate = usual_rate if wanted.learning_rate is None else wanted.learning_rate
        outer_rank = usual.outer_rank if wanted.outer_rank is None else wanted.outer_rank
        resolved = PartSettings(
            rank=usual.rank if wanted.rank is None else wanted.rank,
            outer_rank=outer_rank if "outer_rank" in own else None,
            alpha=wanted.alpha if "alpha" in own else None,
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


def _check_part(options: DreamboothOptions, method: str, part: str) -> None:
    """Refuse a part's option that no twin has, and an override that its own twin has not."""
    for name in ("outer_rank", "alpha"):
        flag = f"{part}.{name}".replace("_", "-")
        given = getattr(getattr(options, part), name) is not None
        if given and not any(name in METHODS[m].settings for m in options.methods):
            raise foreign_option(flag, name, options.method)
        for entry in options.override:
            key = entry.partition("=")[0].strip().replace("-", "_")
            mine = f"{method}.{part}.{name}".replace("-", "_")
            if key == mine and name not in METHODS[method].settings:
                raise foreign_option(f"override {entry}", name, method)


def _with_overrides(options: DreamboothOptions, method: str, part: str) -> PartOptions:
    part_options: PartOptions = getattr(options, part)
    hints = get_type_hints(PartOptions)
    for entry in options.override:
        key, equals, text = entry.partition("=")
        pieces = key.split(".")
        if not equals or len(pieces) != 3:
            raise StudioError(
                f"--override: expected METHOD.PART.OPTION=VALUE; got {entry!r} "
                "(an example: lora.unet.rank=16)."
            )
        for piece, known in zip(pieces, (options.methods, PART_FIELDS, tuple(hints))):
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


def _parse_value(entry: str, text: str, hint: Any) -> bool | int | float:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise StudioError(f"--override {entry!r}: {text!r} is no number or true/false.") from error
    wanted = bool if hint is bool else int if "int" in str(hint) else float
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise StudioError(f"--override {entry!r}: expected {wanted.__name__}; got {text!r}.")
    return value
