"""The card of an adapter: the facts that are needed before it is loaded."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import parse_json


@dataclass(frozen=True)
class AdapterCard:
    """The facts about an adapter that are needed before it is loaded."""

    method: str
    model: str
    fingerprints: dict[str, list[float]]
    """Fingerprint of each adapted part's base weights (`fingerprints.fingerprint`)."""
    trigger: str
    """The trigger: the rare word or the new tokens that replace "[V]"."""
    prompt: str
    """The prompt it was trained with, "[V]" included."""
    resolution: int
    """Side of the training images in pixels."""
    steps: int
    seed: int
    parameters: int
    """Trained parameters, all parts together."""
    version: str
    """Version of nora-studio that wrote it."""
    licence: str = ""
    """The adapter's licence, as the Hub abbreviates it ("openrail++"); empty: not stated."""
    tokens: list[str] = field(default_factory=list)
    """The new tokens that the trigger consists of; empty if it is a rare word."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of all of each adapted part's base weights (`base_digests.base_digest`)."""
    task: str = ""
    """The task it was trained for, such as "clip few-shot"; empty for a subject in SDXL."""

    def at(self, steps: int) -> "AdapterCard":
        """Return the same card after some number of steps."""
        return replace(self, steps=steps)


def is_hub_name(model: str) -> bool:
    """Return whether a base is named as on the Hub (owner/name), and is not a local folder."""
    return model.count("/") == 1 and model[0] not in "./~" and not Path(model).exists()


def without_local_path(card: AdapterCard) -> AdapterCard:
    """Return the card for a file to share, with a local base's folder name instead of its path."""
    if not card.model or is_hub_name(card.model):
        return card
    return replace(card, model=Path(card.model).name)


def card_values(card: AdapterCard) -> dict[str, Any]:
    """Return a card's values for JSON, without fields of later versions that are empty."""
    later = ("task", "digests")
    return {name: value for name, value in asdict(card).items() if name not in later or value}


def card_text(card: AdapterCard) -> str:
    """Return a card as one line of JSON, for a file's header."""
    return json.dumps(card_values(card), ensure_ascii=False)


def parse_card(text: str, where: Path) -> AdapterCard:
    """Parse a card, ignoring fields of a later version.

    Args:
        text: JSON.
        where: The file, for messages.

    Raises:
        StudioError: the text is not a card, or a value has the wrong type.
    """
    known = {one.name for one in fields(AdapterCard)}
    try:
        values = parse_json(text)
        card = AdapterCard(**{key: value for key, value in values.items() if key in known})
        _check(card)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise StudioError(f"{where} is damaged: {error}. {get_again(where)}") from error
    return card


def _check(card: AdapterCard) -> None:
    for one in fields(card):
        value = getattr(card, one.name)
        expected = {"str": str, "int": int, "list": list}.get(
            getattr(one.type, "__name__", str(one.type)), dict
        )
        if not isinstance(value, expected) or isinstance(value, bool):
            raise TypeError(f"{one.name} should be {expected.__name__}; got {value!r}")
    for name in ("resolution", "steps", "parameters"):
        if getattr(card, name) < 0:
            raise ValueError(f"{name} should be 0 or more; got {getattr(card, name)}")
    if not all(isinstance(word, str) for word in card.tokens):
        raise TypeError(f"tokens should be words; got {card.tokens!r}")
    if not all(isinstance(digest, str) for digest in card.digests.values()):
        raise TypeError(f"digests should be text; got {card.digests!r}")
    for part, numbers in card.fingerprints.items():
        if not isinstance(numbers, list) or not all(type(n) in (int, float) for n in numbers):
            raise TypeError(f"the fingerprint of {part} should be a list of numbers")
