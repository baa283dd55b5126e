"""An open_clip model's files, found and loaded: safetensors alone, whatever the model is named by.

open_clip itself falls back to pickles: in a folder with files of other names, on the Hub, and for
published weights. So the file is chosen here, from names alone, and open_clip is given that file.
"""

import logging
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache

from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED, embedded
from nora_studio.runs.tensor_headers import PICKLE_SUFFIXES, read_header
from nora_studio.runs.weight_files import (
    hub_file,
    hub_files,
    pick_weights,
    pickle_refusal,
)

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
LOCAL_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors")
"""By preference; in a folder that holds none of them, its only safetensors file."""
HUB, FOLDER = "hf-hub:", "local-dir:"
_PUBLISHED_PICKLE = "open_clip_pytorch_model.bin"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class ClipFiles:
    """Where the parts of an open_clip model are."""

    config: str
    """What open_clip knows its configuration by: "local-dir:FOLDER", or an architecture."""
    tokenizer: str
    """What open_clip knows its tokenizer by."""
    weights: Path
    """A safetensors file."""
    published: dict[str, Any] = field(default_factory=dict)
    """open_clip's own facts of published weights: preprocessing, and whether with QuickGELU."""


def find_clip_files(name: str, flag: str) -> ClipFiles:
    """Find an open_clip model; nothing but its configuration is downloaded before its weights.

    Args:
        name: "embedded"; a folder of open_clip's format, with or without "local-dir:"; a
            safetensors file in such a folder; "hf-hub:owner/name"; "ARCHITECTURE:WEIGHTS", such as
            "ViT-B-32:openai"; or "ARCHITECTURE:FILE.safetensors".
        flag: What asked for it, for messages.

    Raises:
        StudioError: there is no such model, or its weights are a pickle.
    """
    if name.startswith(HUB):
        return _on_hub(name, flag)
    folder = local_folder(name)
    if folder is not None:
        return _in_folder(name, folder, flag)
    architecture, _, weights = name.partition(":")
    if weights and architecture in open_clip.list_models():
        return _published(architecture, weights, flag)
    raise StudioError(
        f"{flag}: expected 'embedded', a folder, 'hf-hub:owner/name' or ARCHITECTURE:WEIGHTS "
        f"such as ViT-B-32:openai; got {name!r}, which is none of them here."
    )


def local_folder(name: str) -> Path | None:
    """The folder of a model's configuration; None where it is not on this disk."""
    if name == EMBEDDED:
        return embedded("mini-clip")
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if path.is_file():
        return path.parent
    return path if path.is_dir() else None


def load_open_clip(
    files: ClipFiles, device: str | torch.device = "cpu"
) -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    """Load a model in float32 with its preprocessing and its tokenizer.

    Raises:
        StudioError: its weights are no safetensors file, whatever their name.
        Exception: as open_clip has it.
    """
    read_header(files.weights, "Download the model again, or choose another.")
    known: dict[str, Any] = {f"image_{name}": files.published.get(name) for name in _PREPROCESSING}
    model: Any
    preprocess: Any
    with _without_alarm():
        # Neither of the towers' own pretrained weights: those might be pickles.
        model, _, preprocess = open_clip.create_model_and_transforms(
            files.config,
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            device=device,
            # Some published weights were trained with QuickGELU; open_clip goes on without.
            force_quick_gelu=files.published.get("quick_gelu", False),
            **known,
        )
    open_clip.load_checkpoint(model, str(files.weights))
    config: Any = open_clip.get_model_config(files.config) or {}
    # A configuration may ask that a tokenizer's own program be run: not here.
    has_own = config.get("text_cfg", {}).get("hf_tokenizer_name")
    plain: dict[str, Any] = {"trust_remote_code": False} if has_own else {}
    tokenize: Any = open_clip.get_tokenizer(files.tokenizer, **plain)
    return model, preprocess, tokenize


def _in_folder(name: str, folder: Path, flag: str) -> ClipFiles:
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if name != EMBEDDED and path.is_file():
        weights = path.name
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise pickle_refusal(flag, name, weights, WEIGHTS, _remedy(weights, "its folder"))
    else:
        weights = _weights_in(name, folder, flag)
    if not (folder / CONFIG).is_file():
        raise StudioError(
            f"{flag}: expected {CONFIG} and a safetensors file in {folder}; the first is not "
            "there. Give a folder saved in open_clip's format."
        )
    return ClipFiles(f"{FOLDER}{folder}", f"{FOLDER}{folder}", folder / weights)


def _weights_in(name: str, folder: Path, flag: str) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    own = [one for one in names if one.endswith(".safetensors")]
    wanted = [*LOCAL_WEIGHTS, *(own if len(own) == 1 else [])]
    if len(own) > 1 and not set(own) & set(LOCAL_WEIGHTS):
        raise StudioError(
            f"{flag}: {folder} holds {len(own)} safetensors files ({', '.join(own[:3])}, ...), "
            f"none of them called {WEIGHTS}. Name one of the files."
        )
    return pick_weights(flag, name, names, wanted, _remedy(_PUBLISHED_PICKLE, "the same folder"))


def _on_hub(name: str, flag: str) -> ClipFiles:
    repository = name.removeprefix(HUB)
    # All of one commit, which the place of its local copy tells.
    folder = hub_file(flag, repository, CONFIG).parent
    weights = _of_repository(
        flag, name, repository, LOCAL_WEIGHTS[:2], f"a folder with its {CONFIG}", folder.name
    )
    return ClipFiles(f"{FOLDER}{folder}", name, weights)


def _published(architecture: str, weights: str, flag: str) -> ClipFiles:
    """Weights for an architecture that open_clip knows: a file, or what it has a name for."""
    name, file = f"{architecture}:{weights}", Path(weights).expanduser()
    own = f"an empty folder, and name {architecture}:FOLDER/{WEIGHTS}"
    if file.is_file():
        if file.suffix.lower() in PICKLE_SUFFIXES:
            raise pickle_refusal(flag, name, file.name, WEIGHTS, _remedy(file.name, own))
        return ClipFiles(architecture, architecture, file)
    if weights not in open_clip.list_pretrained_tags_by_model(architecture):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise StudioError(f"{flag}: {architecture} has no weights {weights!r}; it has {known}.")
    facts: dict[str, Any] = dict(open_clip.get_pretrained_cfg(architecture, weights))
    repository, _, stored = facts.get("hf_hub", "").rpartition("/")
    if not repository:
        stored = facts.get("url", "").rpartition("/")[2] or "an unknown file"
        raise pickle_refusal(flag, name, stored, WEIGHTS, _remedy(stored, own))
    # As open_clip names the twin of a pickle.
    twin = str(PurePosixPath(stored).with_suffix(".safetensors")) if stored else WEIGHTS
    found = _of_repository(flag, name, repository, [twin], own)
    return ClipFiles(architecture, architecture, found, facts)


def _of_repository(
    flag: str,
    name: str,
    repository: str,
    wanted: tuple[str, ...] | list[str],
    place: str,
    revision: str | None = None,
) -> Path:
    """The weights of a repository, known to be safetensors before they are downloaded."""
    chosen = next(
        (n for n in wanted if isinstance(_cached(repository, n, revision), str)), None
    ) or pick_weights(
        flag,
        name,
        hub_files(flag, repository, revision),
        wanted,
        _remedy(_PUBLISHED_PICKLE, place),
    )
    return hub_file(flag, repository, chosen, revision)


def _cached(repository: str, name: str, revision: str | None) -> object:
    return try_to_load_from_cache(repository, name, revision=revision)


def _remedy(pickle: str, place: str) -> str:
    return (
        f'If you trust it, convert it to {WEIGHTS} in {place}: python -c "from open_clip.factory '
        "import load_state_dict as load; from safetensors.torch import save_file as save; "
        f"save({{k: v.clone().contiguous() for k, v in load('{pickle}').items()}}, '{WEIGHTS}')\"; "
        "or choose a model that has safetensors, such as ViT-B-32:openai."
    )


@contextmanager
def _without_alarm():
    """Leave out open_clip's warning that a model has no weights yet: they follow."""

    def is_other(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in str(record.msg)

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
