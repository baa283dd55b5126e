"""An adapter on disk: its kind, its card, its new tokens, and its weights on demand.

All code that takes an adapter opens it by `open_adapter`. It reads only headers and cards, each
once, and imports neither torch nor PEFT to do so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nora_studio.adapters.files.card import AdapterCard, parse_card
from nora_studio.adapters.files.identify import CARD_KEY, EMBEDDINGS, Identity, identify
from nora_studio.adapters.files.peft_settings import WEIGHTS, read_settings
from nora_studio.adapters.peft_names import PEFT_PREFIX
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.tensor_headers import (
    Header,
    Stamp,
    check_floats,
    count_numbers,
    read_header,
    stamp_of,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nora_studio.adapters.new_tokens import NewTokens

CARD = "card.json"
_FOLDER = Identity("folder", "")


def embeddings_path(file: Path) -> Path:
    """Return the file of a portable LoRA's new tokens: "mug.embedding.safetensors"."""
    return file.with_suffix(".embedding.safetensors")


@dataclass(frozen=True)
class AdapterFile:
    """An adapter folder, or an adapter file of any format; created by `open_adapter`."""

    path: Path
    """The folder with the card, or the file."""
    identity: Identity
    stamp: Stamp | None = field(repr=False)
    """The state of the file, or of the folder's card, when it was opened."""
    header: Header | None = field(repr=False, compare=False)
    """The file's header; None for a folder, where each part has its own (`header_of`)."""
    _headers: dict[Path, Header] = field(default_factory=dict, repr=False, compare=False)
    _settings: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder with a card and a PEFT directory for each adapted part."""
        return self.header is None

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata in a file's header; empty for a folder, which has a card instead."""
        return {} if self.header is None else self.header.metadata

    @cached_property
    def card(self) -> AdapterCard:
        """The card; for a file that another tool wrote, made from its metadata.

        Raises:
            StudioError: the adapter cannot be loaded, or its card is missing or damaged.
        """
        if self.header is None:
            return self._card_of_folder()
        self.check_loadable()
        text = self.metadata.get(CARD_KEY)
        if text is None:
            return _foreign_card(self.header, self.identity)
        return parse_card(text, self.path)

    def _card_of_folder(self) -> AdapterCard:
        file = self.path / CARD
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            check_checkpoint_exists(self.path)
            raise StudioError(f"{file} is damaged: {error}. {get_again(file)}") from error
        return parse_card(text, file)

    def check_loadable(self) -> None:
        """Refuse a file that this project cannot load onto a base.

        Raises:
            StudioError: it cannot be loaded.
        """
        if not (self.is_folder or self.identity.is_portable):
            raise StudioError(
                f"{self.path} is a {self.identity}, which cannot be loaded here. Expected a NoRA "
                "seed file or a LoRA for SDXL in diffusers' or Kohya's keys."
            )

    def check_part(self, adapted: str, parts: Mapping[str, object]) -> None:
        """Refuse a model that lacks a part which the adapter changes.

        Raises:
            StudioError: the model lacks the part `adapted`.
        """
        if adapted not in parts:
            raise StudioError(
                f"{self.path} adapts {adapted!r}, which this model lacks (it has "
                f"{', '.join(parts)}). Load the base it was trained on."
            )

    def files(self) -> list[Path]:
        """Return the files of the adapter: all of a folder's but the card, or the one file.

        Raises:
            OSError: the folder cannot be read.
        """
        if self.is_folder:
            self.path.stat()  # Raises if the folder is gone; `rglob` would not.
            found = [file for file in self.path.rglob("*") if file.is_file()]
            return sorted(file for file in found if file.name != CARD)
        embeddings = embeddings_path(self.path)
        return [self.path, *([embeddings] if embeddings.is_file() else [])]

    def new_tokens(self) -> NewTokens | None:
        """Read the vectors of the new tokens; return None if the trigger is a word of the base.

        Raises:
            StudioError: the card names new tokens, but their vectors are missing or damaged.
        """
        from nora_studio.adapters.files.embeddings import as_tokens, read_embeddings, seed_rows

        words = self.card.tokens
        if not words:
            return None
        if self.identity.kind == "seed":
            return as_tokens(self.path, words, seed_rows(self.tensors()))
        file = self.path / EMBEDDINGS if self.is_folder else embeddings_path(self.path)
        return read_embeddings(file, words, self._tensors_in)

    def tensors(self, part: str = "") -> dict[str, Tensor]:
        """Read the weights: of a file by its own keys, of a folder's part by PEFT's without prefix.

        Raises:
            StudioError: for the same reasons as `tensor_files.read_tensors`.
        """
        if not part:
            return self._tensors_in(self.path)
        found = self._tensors_in(self.path / part / WEIGHTS)
        return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in found.items()}

    def _tensors_in(self, file: Path) -> dict[str, Tensor]:
        from nora_studio.runs.tensor_files import read_tensors

        return read_tensors(file, self.header_of(file))

    def header_of(self, file: Path) -> Header:
        """Return the header of one of its files, which is read once.

        Raises:
            StudioError: for the same reasons as `read_header`.
        """
        if file not in self._headers:
            self._headers[file] = read_header(file)
        return self._headers[file]

    def part_settings(self, part: str) -> dict[str, Any]:
        """Return PEFT's configuration of one part of a folder, as written.

        Raises:
            StudioError: for the same reasons as `peft_settings.read_settings`.
        """
        if part not in self._settings:
            self._settings[part] = read_settings(self.path / part)
        return self._settings[part]


def open_adapter(path: Path | AdapterFile) -> AdapterFile:
    """Open an adapter of any kind; its weights are read on demand.

    Args:
        path: A run folder, adapter folder, checkpoint, or file of any format, including those that
            can only be inspected. An opened adapter is returned as it is, or opened again if it
            has changed on disk.

    Raises:
        StudioError: nothing is there, the file is not a complete safetensors file, or it is an
            adapter whose numbers are not floats.
    """
    if isinstance(path, AdapterFile):
        return path if path.stamp == _stamp_now(path.path) else open_adapter(path.path)
    path = find_adapter(path)
    if path.is_dir():
        return AdapterFile(path, _FOLDER, _stamp_now(path), None)
    header = read_header(path)
    identity = identify(header)
    if identity.kind not in ("model", "unknown"):
        check_floats(path, header)
    return AdapterFile(path, identity, header.stamp, header, {path: header})


def open_subject_adapter(path: Path | AdapterFile) -> AdapterFile:
    """Open an adapter of SDXL, its card included, to generate with it or to export it.

    Raises:
        StudioError: for the same reasons as `open_adapter` and `AdapterFile.card`, or the adapter
            was trained for another task.
    """
    adapter = open_adapter(path)
    if adapter.card.task:
        raise StudioError(
            f"expected an adapter of SDXL; {adapter.path} was trained for {adapter.card.task}. Use "
            "it with that task's own scripts."
        )
    return adapter


def _stamp_now(path: Path) -> Stamp | None:
    """Return the current stamp of a file, or of a folder's card; None if it is gone."""
    try:
        return stamp_of((path / CARD if path.is_dir() else path).stat())
    except OSError:
        return None


def find_adapter(path: Path) -> Path:
    """Find the adapter of a run folder, its `adapter/`, one of its checkpoints, or a single file.

    Returns:
        A folder with a card, or the file.

    Raises:
        StudioError: there is none.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    for folder in (path, path / "adapter"):
        if (folder / CARD).is_file():
            return folder
    check_checkpoint_exists(path)
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


def check_checkpoint_exists(path: Path) -> None:
    """Refuse a checkpoint that is gone because its run keeps only the newest.

    Raises:
        StudioError: the path is in a `checkpoints` folder and does not exist.
    """
    if not path.exists() and path.parent.name == "checkpoints" and path.parent.is_dir():
        raise StudioError(
            f"{path} does not exist: a run keeps only its newest checkpoints, and may not have "
            "written this one yet. Name another, or train with a larger --keep-checkpoints."
        )


def _foreign_card(header: Header, identity: Identity) -> AdapterCard:
    """Return a card for a file without one; it names no base and has no fingerprints."""
    metadata = header.metadata
    size = metadata.get("modelspec.resolution", "1024x1024").partition("x")[0]
    return AdapterCard(
        method=identity.method.lower(),
        model="",
        fingerprints={},
        trigger=metadata.get("modelspec.trigger_phrase", ""),
        prompt="",
        resolution=int(size) if size.isascii() and size.isdigit() and len(size) < 6 else 1024,
        steps=_number(metadata.get("ss_steps", "")),
        seed=_number(metadata.get("ss_seed", "")),
        parameters=count_numbers(header),
        version="",
        licence=metadata.get("modelspec.license", ""),
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
