"""The files that hold a model's weights: safetensors only, never pickles.

A pickle can run any program when it is read. Only names are checked here, in a folder or on the
Hub, so that a model is refused before anything is read or downloaded.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nora_studio.errors import StudioError, first_line
from nora_studio.runs.tensor_headers import PICKLE_SUFFIXES

# Its base classes are OSError and what this release of the Hub's client raises without a network.
_UNREACHABLE: tuple[type[Exception], ...] = HfHubHTTPError.__bases__  # pyright: ignore
_TIMEOUT = 30.0  # seconds
RESAVE = (
    "If you trust it, load it once elsewhere and save it with save_pretrained, which writes "
    "safetensors; or choose another model."
)
"""The remedy for models of transformers and diffusers."""


def weights_of_folder(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files from which diffusers or transformers read a folder's weights.

    Returns:
        The single file, or those of an index; empty if there are none or the index is damaged.
    """
    unet, other = "diffusion_pytorch_model.safetensors", "model.safetensors"
    # If a folder has both, diffusers prefers the index, transformers the single file.
    for name in (f"{unet}.index.json", unet, other, f"{other}.index.json"):
        file = folder / name
        if not file.is_file():
            continue
        if file.suffix == ".safetensors":
            return (file,)
        try:
            names = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
            return tuple(sorted(folder / name for name in names))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return ()
    return ()


def first_pickle(names: Iterable[str]) -> str | None:
    """Return the alphabetically first name of a pickle; None if there is none."""
    found = (name for name in names if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES)
    return min(found, default=None)


def pickle_refusal(flag: str, model: str, pickle: str, expected: str, remedy: str) -> StudioError:
    """Return the error for a model whose weights are a pickle.

    Args:
        flag: The option that names the model.
        model: The model as the user named it.
        pickle: Name of the pickle.
        expected: Name of the file that would have been read.
        remedy: What to do, in whole sentences.
    """
    return StudioError(
        f"{flag}: expected {expected} in {model}; it has its weights only as {pickle}, a pickle, "
        f"which can run any program when it is read. {remedy}"
    )


def check_weights(
    flag: str, model: str, folder: Path, expected: str = "model.safetensors", remedy: str = RESAVE
) -> None:
    """Refuse a local folder that has pickles of weights and no safetensors.

    Raises:
        StudioError: the folder has only pickles.
    """
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    pickle = first_pickle(names)
    if pickle is not None and not any(name.endswith(".safetensors") for name in names):
        raise pickle_refusal(flag, model, f"{folder.name}/{pickle}", expected, remedy)


def check_hub_weights(
    flag: str, repository: str, expected: str = "model.safetensors", remedy: str = RESAVE
) -> None:
    """Refuse a Hub repository with pickles and no safetensors; one that cannot be listed passes.

    Called after a failed load, to name the missing file: listing needs the Hub, or a local copy.

    Raises:
        StudioError: the repository has only pickles.
    """
    if repository.count("/") != 1 or Path(repository).expanduser().exists():
        return
    try:
        names = hub_files(flag, repository)
    except StudioError:
        return
    pickle = first_pickle(names)
    if pickle is not None and not any(name.endswith(".safetensors") for name in names):
        raise pickle_refusal(flag, repository, pickle, expected, remedy)


def hub_files(flag: str, repository: str, revision: str | None = None) -> list[str]:
    """Return the names of a repository's files, from the Hub, or from a local copy without network.

    Args:
        flag: The option that names the repository.
        repository: owner/name.
        revision: A commit. None: the newest.

    Raises:
        StudioError: the repository does not exist, or the Hub is unreachable and there is no local
            copy.
    """
    try:
        # Not `list_repo_files`, which without a network retries for half a minute.
        found = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT)
        return [file.rfilename for file in found.siblings or ()]
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, ValueError) as error:
        raise _download_error(flag, repository, error) from error
    except _UNREACHABLE as error:
        try:
            copy = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            raise _download_error(flag, repository, error) from error
        return [file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()]


def hub_file(flag: str, repository: str, name: str, revision: str | None = None) -> Path:
    """Return one file of a repository, downloading it unless there is a local copy.

    Raises:
        StudioError: the file cannot be downloaded.
    """
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (*_UNREACHABLE, ValueError) as error:
        raise _download_error(flag, f"{name} of {repository}", error) from error


def pick_weights(
    flag: str, model: str, names: Sequence[str], wanted: Sequence[str], remedy: str
) -> str:
    """Return the first of the wanted safetensors files that is among a model's files.

    Raises:
        StudioError: the model has none of them; the message names a pickle it has instead.
    """
    for name in wanted:
        if name in names:
            return name
    pickle = first_pickle(names)
    if pickle is not None:
        raise pickle_refusal(flag, model, pickle, wanted[0], remedy)
    raise StudioError(
        f"{flag}: expected {wanted[0]} in {model}; the model has no such file. Choose a model with "
        "its weights as safetensors."
    )


def _download_error(flag: str, what: str, error: Exception) -> StudioError:
    return StudioError(
        f"{flag}: {what} cannot be downloaded from the Hub: {first_line(error).rstrip('.')}. "
        "Check the name and the connection."
    )
