"""An adapter on disk and the card that tells of it, read without loading any weights."""

from pathlib import Path

from nora_studio.adapters.files.card import AdapterCard, parse_card
from nora_studio.adapters.files.container import Header, count_numbers
from nora_studio.adapters.files.identify import CARD_KEY, Identity, check_loadable, open_header
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again

CARD = "card.json"


def find_adapter(path: Path) -> Path:
    """The adapter behind a run folder, its `adapter/`, one of its checkpoints, or a single file.

    Returns:
        A folder with a card, or a file as it was named.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for folder in (path, path / "adapter"):
        if (folder / CARD).is_file():
            return folder
    check_kept(path)
    if not path.exists():
        raise StudioError(
            f"expected a run folder, an adapter folder or a .safetensors file; {path} does not "
            "exist. Check the path."
        )
    if (path / "checkpoints").is_dir():
        has_any = any((path / "checkpoints").glob("step-*"))
        other = "name one of its checkpoints" if has_any else "wait for its first checkpoint"
        raise StudioError(
            f"{path} is a run without a final adapter: its training has not finished. Resume it, "
            f"or {other}."
        )
    raise StudioError(
        f"expected a run folder or an adapter folder; {path} holds no {CARD}. Name the folder of a "
        "run, its adapter/, or one of its checkpoints."
    )


def check_kept(path: Path) -> None:
    """Refuse a checkpoint that is gone, as its run in training keeps only the newest.

    Raises:
        StudioError: it is such a one.
    """
    if not path.exists() and path.parent.name == "checkpoints" and path.parent.is_dir():
        raise StudioError(
            f"{path} is gone: a run in training keeps its newest checkpoints only. Name another "
            "one, wait until the training has ended, or train with more --keep-checkpoints."
        )


def read_card(path: Path) -> AdapterCard:
    """Read an adapter's card.

    Raises:
        StudioError: there is none, or it cannot be read.
    """
    path = find_adapter(path)
    if path.is_file():
        return _read_file_card(path)
    file = path / CARD
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        check_kept(path)
        raise StudioError(f"{file} is damaged: {error}. {get_again(file)}") from error
    return parse_card(text, file)


def read_subject_card(path: Path) -> AdapterCard:
    """The card of an adapter of SDXL, for whatever draws with it or passes it on.

    Raises:
        StudioError: as `read_card`, or it was trained for another task.
    """
    card = read_card(path)
    if card.task:
        raise StudioError(
            f"expected an adapter of SDXL; {path} was trained for {card.task}. Ask it with that "
            "task's own scripts."
        )
    return card


def _read_file_card(file: Path) -> AdapterCard:
    """The card in a file's header; of a file that another tool wrote, what its metadata tells.

    Raises:
        StudioError: it is no adapter that can be loaded, or its card is damaged.
    """
    header, identity = open_header(file)
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
