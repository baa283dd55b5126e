"""Finding and loading the files of an open_clip model, from safetensors only.

open_clip itself falls back to pickles: in a folder with other file names, on the Hub, and for
published weights. So the file is chosen here by its name, and passed to open_clip.
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
"""In order of preference; in a folder without these, its only safetensors file is used."""
HUB, FOLDER = "hf-hub:", "local-dir:"
_PUBLISHED_PICKLE = "open_clip_pytorch_model.bin"
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class ClipFiles:
    """The locations of an open_clip model's parts."""

    config: str
    """open_clip's name of the configuration: "local-dir:FOLDER", or an architecture."""
    tokenizer: str
    """open_clip's name of the tokenizer."""
    weights: Path
    """The safetensors file."""
    published: dict[str, Any] = field(default_factory=dict)
    """open_clip's settings of published weights, such as preprocessing and QuickGELU."""


def find_clip_files(name: str, flag: str) -> ClipFiles:
    """Find an open_clip model, downloading its configuration and weights if necessary.

    Args:
        name: "embedded"; a folder in open_clip's format, with or without "local-dir:"; a
            safetensors file in such a folder; "hf-hub:owner/name"; "ARCHITECTURE:WEIGHTS", such as
            "ViT-B-32:openai"; or "ARCHITECTURE:FILE.safetensors".
        flag: The option that names the model, for messages.

    Raises:
        StudioError: the model does not exist, or its weights are a pickle.
    """
    if name.startswith(HUB):
        return _find_on_hub(name, flag)
    folder = local_folder(name)
    if folder is not None:
        return _find_in_folder(name, folder, flag)
    architecture, _, weights = name.partition(":")
    if weights and architecture in open_clip.list_models():
        return _find_published(architecture, weights, flag)
    raise StudioError(
        f"{flag}: expected 'embedded', a folder, 'hf-hub:owner/name' or ARCHITECTURE:WEIGHTS "
        f"such as ViT-B-32:openai; got {name!r}. Check the name or the path."
    )


def local_folder(name: str) -> Path | None:
    """Return the folder of a model's configuration; None if the model is not local."""
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
        StudioError: its weights are not a safetensors file, whatever their name.
        Exception: open_clip's own errors.
    """
    read_header(files.weights, "Download the model again, or choose another.")
    known: dict[str, Any] = {f"image_{name}": files.published.get(name) for name in _PREPROCESSING}
    model: Any
    preprocess: Any
    with _without_weights_warning():
        # Without pretrained weights of the towers, which might be pickles.
        model, _, preprocess = open_clip.create_model_and_transforms(
            files.config,
            load_weights=False,
            pretrained_image=False,
            pretrained_text=False,
            device=device,
            # Some published weights were trained with QuickGELU, which open_clip does not set.
            force_quick_gelu=files.published.get("quick_gelu", False),
            **known,
        )
    open_clip.load_checkpoint(model, str(files.weights))
    config: Any = open_clip.get_model_config(files.config) or {}
    # A configuration may name a tokenizer with its own code, which is not run.
    has_own = config.get("text_cfg", {}).get("hf_tokenizer_name")
    plain: dict[str, Any] = {"trust_remote_code": False} if has_own else {}
    tokenize: Any = open_clip.get_tokenizer(files.tokenizer, **plain)
    return model, preprocess, tokenize


def _find_in_folder(name: str, folder: Path, flag: str) -> ClipFiles:
    path = Path(name.removeprefix(FOLDER)).expanduser()
    if name != EMBEDDED and path.is_file():
        weights = path.name
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise pickle_refusal(flag, name, weights, WEIGHTS, _remedy(weights, "its folder"))
    else:
        weights = _weights_in(name, folder, flag)
    if not (folder / CONFIG).is_file():
        raise StudioError(
            f"{flag}: expected {CONFIG} and a safetensors file in {folder}; it has no {CONFIG}. "
            "Name a folder in open_clip's format."
        )
    return ClipFiles(f"{FOLDER}{folder}", f"{FOLDER}{folder}", folder / weights)


def _weights_in(name: str, folder: Path, flag: str) -> str:
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    own = [one for one in names if one.endswith(".safetensors")]
    wanted = [*LOCAL_WEIGHTS, *(own if len(own) == 1 else [])]
    if len(own) > 1 and not set(own) & set(LOCAL_WEIGHTS):
        raise StudioError(
            f"{flag}: expected {WEIGHTS} in {folder}; it has {len(own)} other safetensors files "
            f"({', '.join(own[:3])}, ...). Name one of the files."
        )
    return pick_weights(flag, name, names, wanted, _remedy(_PUBLISHED_PICKLE, "the same folder"))


def _find_on_hub(name: str, flag: str) -> ClipFiles:
    repository = name.removeprefix(HUB)
    # All files are of one commit, which is the name of the local copy's folder.
    folder = hub_file(flag, repository, CONFIG).parent
    weights = _repository_weights(
        flag, name, repository, LOCAL_WEIGHTS[:2], f"a folder with its {CONFIG}", folder.name
    )
    return ClipFiles(f"{FOLDER}{folder}", name, weights)


def _find_published(architecture: str, weights: str, flag: str) -> ClipFiles:
    """Find weights of an architecture that open_clip knows: a file, or published weights."""
    name, file = f"{architecture}:{weights}", Path(weights).expanduser()
    own = f"an empty folder, and name {architecture}:FOLDER/{WEIGHTS}"
    if file.is_file():
        if file.suffix.lower() in PICKLE_SUFFIXES:
            raise pickle_refusal(flag, name, file.name, WEIGHTS, _remedy(file.name, own))
        return ClipFiles(architecture, architecture, file)
    if weights not in open_clip.list_pretrained_tags_by_model(architecture):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise StudioError(
            f"{flag}: expected weights of {architecture}, one of {known}; got {weights!r}. "
            f"Name one of these, or a safetensors file as {architecture}:FILE."
        )
    facts: dict[str, Any] = dict(open_clip.get_pretrained_cfg(architecture, weights))
    repository, _, stored = facts.get("hf_hub", "").rpartition("/")
    if not repository:
        stored = facts.get("url", "").rpartition("/")[2] or "an unknown file"
        raise pickle_refusal(flag, name, stored, WEIGHTS, _remedy(stored, own))
    # open_clip gives the safetensors copy of a pickle the same name.
    copy = str(PurePosixPath(stored).with_suffix(".safetensors")) if stored else WEIGHTS
    found = _repository_weights(flag, name, repository, [copy], own)
    return ClipFiles(architecture, architecture, found, facts)


def _repository_weights(
    flag: str,
    name: str,
    repository: str,
    wanted: tuple[str, ...] | list[str],
    place: str,
    revision: str | None = None,
) -> Path:
    """Return the weights of a repository, known to be safetensors before they are downloaded."""
    chosen = next(
        (n for n in wanted if isinstance(_find_in_cache(repository, n, revision), str)), None
    ) or pick_weights(
        flag,
        name,
        hub_files(flag, repository, revision),
        wanted,
        _remedy(_PUBLISHED_PICKLE, place),
    )
    return hub_file(flag, repository, chosen, revision)


def _find_in_cache(repository: str, name: str, revision: str | None) -> object:
    return try_to_load_from_cache(repository, name, revision=revision)


def _remedy(pickle: str, place: str) -> str:
    return (
        f'If you trust it, convert it to {WEIGHTS} in {place}: python -c "from open_clip.factory '
        "import load_state_dict as load; from safetensors.torch import save_file as save; "
        f"save({{k: v.clone().contiguous() for k, v in load('{pickle}').items()}}, '{WEIGHTS}')\"; "
        "or choose a model that has safetensors, such as ViT-B-32:openai."
    )


@contextmanager
def _without_weights_warning():
    """Drop open_clip's warning that a model has no weights, since they are loaded afterwards."""

    def is_other(record: logging.LogRecord) -> bool:
        return "initialized randomly" not in str(record.msg)

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
