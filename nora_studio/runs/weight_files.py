"""The files that hold a model's weights: safetensors, or a refusal by name. No pickle is read.

A pickle can run any program when it is read. What is looked at here are names alone, in a folder or
on the Hub, so that a refusal comes before anything is read or downloaded.
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

# Its bases: OSError, and what the Hub's client of this release raises without a network.
_OUT_OF_REACH: tuple[type[Exception], ...] = HfHubHTTPError.__bases__  # pyright: ignore
_PATIENCE = 30.0  # seconds
RESAVE = (
    "If you trust it, load it once elsewhere and save it with save_pretrained, which writes "
    "safetensors; or choose another model."
)
"""The remedy for models of transformers and diffusers."""


def weights_of_folder(folder: Path) -> tuple[Path, ...]:
    """The safetensors files that diffusers or transformers read a folder's weights from.

    Returns:
        The one file, or those of an index; none where there are none or the index is damaged.
    """
    unet, other = "diffusion_pytorch_model.safetensors", "model.safetensors"
    # Where both are there, diffusers prefers the index of several files, transformers the one.
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
    """The first name, in order of the alphabet, that a pickle of weights has."""
    found = (name for name in names if PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES)
    return min(found, default=None)


def pickle_refusal(flag: str, model: str, pickle: str, expected: str, remedy: str) -> StudioError:
    """Say in one line that a model's weights are a pickle.

    Args:
        flag: What asked for the model.
        model: As it was asked for.
        pickle: Name of the file.
        expected: Name of the file that would have been read.
        remedy: What to do, in whole sentences.
    """
    return StudioError(
        f"{flag}: {model} has its weights only as {pickle}, a pickle, which may run any program "
        f"when it is read; expected {expected}. {remedy}"
    )


def check_weights(
    flag: str, model: str, folder: Path, expected: str = "model.safetensors", remedy: str = RESAVE
) -> None:
    """Refuse a local folder that holds pickles of weights and no safetensors.

    Raises:
        StudioError: it is such a folder.
    """
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    pickle = first_pickle(names)
    if pickle is not None and not any(name.endswith(".safetensors") for name in names):
        raise pickle_refusal(flag, model, f"{folder.name}/{pickle}", expected, remedy)


def check_hub_weights(
    flag: str, repository: str, expected: str = "model.safetensors", remedy: str = RESAVE
) -> None:
    """Refuse a Hub repository with pickles and no safetensors; one that cannot be listed passes.

    For after a failure, to say by name what was missing: listing needs the Hub, or a copy of it.

    Raises:
        StudioError: it is such a repository.
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
    """Names of a repository's files by the Hub, or of its local copy where the Hub is out of reach.

    Args:
        flag: What asked for it.
        repository: owner/name.
        revision: A commit; None: the newest.

    Raises:
        StudioError: there is no such repository, or neither the Hub nor a local copy is at hand.
    """
    try:
        # Not `list_repo_files`, which tries five times, for half a minute, without a network.
        found = HfApi().model_info(repository, revision=revision, timeout=_PATIENCE)
        return [file.rfilename for file in found.siblings or ()]
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, ValueError) as error:
        raise _not_had(flag, repository, error) from error
    except _OUT_OF_REACH as error:
        try:
            copy = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            raise _not_had(flag, repository, error) from error
        return [file.relative_to(copy).as_posix() for file in copy.rglob("*") if file.is_file()]


def hub_file(flag: str, repository: str, name: str, revision: str | None = None) -> Path:
    """One file of a repository, downloaded unless a copy of it is there.

    Raises:
        StudioError: it cannot be had.
    """
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (*_OUT_OF_REACH, ValueError) as error:
        raise _not_had(flag, f"{name} of {repository}", error) from error


def pick_weights(
    flag: str, model: str, names: Sequence[str], wanted: Sequence[str], remedy: str
) -> str:
    """The first of the wanted safetensors files among a model's files.

    Raises:
        StudioError: none is there; a pickle that is there instead is named.
    """
    for name in wanted:
        if name in names:
            return name
    pickle = first_pickle(names)
    if pickle is not None:
        raise pickle_refusal(flag, model, pickle, wanted[0], remedy)
    raise StudioError(
        f"{flag}: expected {wanted[0]} in {model}; it is not there. Choose a model that has its "
        "weights as safetensors."
    )


def _not_had(flag: str, what: str, error: Exception) -> StudioError:
    return StudioError(f"{flag}: {what} could not be had from the Hub: {first_line(error)}")
