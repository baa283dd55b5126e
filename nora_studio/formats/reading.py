"""Read any adapter file onto a base, whatever format it is in."""

from pathlib import Path

from peft import PeftConfig
from torch import Tensor, nn

from nora_studio.formats.card import AdapterCard, parse_card
from nora_studio.formats.container import Header, count_numbers, read_header
from nora_studio.formats.identify import CARD_KEY, Identity, check_loadable, identify
from nora_studio.formats.portable import read_portable
from nora_studio.formats.seed_reading import read_seed

Loaded = dict[str, tuple[PeftConfig, dict[str, Tensor]]]
"""Part -> PEFT's configuration and its tensors, keys without PEFT's prefix."""


def read_file(file: Path, parts: dict[str, nn.Module]) -> Loaded:
    """Read a seed file or a portable LoRA for a base that carries no adapter.

    Raises:
        StudioError: it is another kind of file, damaged, or made for another base.
    """
    if identify(read_header(file)).kind == "seed":
        return dict(read_seed(file, parts))
    return read_portable(file, parts)


def read_file_card(file: Path) -> AdapterCard:
    """The card in a file's header; of a file that another tool wrote, what its metadata tells.

    Raises:
        StudioError: it is no adapter that can be loaded, or its card is damaged.
    """
    header = read_header(file)
    identity = identify(header)
    check_loadable(identity, file)
    text = header.metadata.get(CARD_KEY)
    return _foreign_card(header, identity) if text is None else parse_card(text, file)


def _foreign_card(header: Header, identity: Identity) -> AdapterCard:
    """A card for a file without one; it names no base and has no fingerprint to check."""
    told = header.metadata
    size = told.get("modelspec.resolution", "1024x1024").partition("x")[0]
    return AdapterCard(
        method=identity.method.lower(),
        model="",
        fingerprints={},
        trigger=told.get("modelspec.trigger_phrase", ""),
        prompt="",
        resolution=int(size) if size.isascii() and size.isdigit() and len(size) < 6 else 1024,
        steps=_number(told.get("ss_steps", "")),
        seed=_number(told.get("ss_seed", "")),
        parameters=count_numbers(header),
        version="",
        licence=told.get("modelspec.license", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
