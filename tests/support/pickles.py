"""Pickles that give themselves away, and where a test puts them: reading one leaves a file."""

import pickle
import zipfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nora_studio.errors import StudioError


class Trap:
    """What a pickle runs when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def trap_file(file: Path, mark: Path, zipped: bool = True) -> Path:
    """Write a pickle that makes `mark` when it is read, as torch saves one today or long ago."""
    content = pickle.dumps(Trap(mark), protocol=2)
    if zipped:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
    else:
        file.write_bytes(content)
    return file


def plain_pickle(source: Path, file: Path) -> Path:
    """The weights of a safetensors file as torch pickles them, harmless and loadable, all zero."""
    import torch

    torch.save({name: torch.zeros_like(t) for name, t in load_file(source).items()}, file)
    return file


def hub_copy(copies: Path, repository: str = "owner/name") -> Path:
    """The folder of a repository's local copy, as the Hub's client lays it out."""
    top, commit = copies / f"models--{repository.replace('/', '--')}", "0" * 40
    (top / "refs").mkdir(parents=True)
    (top / "refs" / "main").write_text(commit)
    (top / "snapshots" / commit).mkdir(parents=True)
    return top / "snapshots" / commit


def assert_refused(call, *words: str) -> str:
    with pytest.raises(StudioError) as refused:
        call()
    said = str(refused.value)
    assert "\n" not in said
    for word in ("a pickle", *words):
        assert word in said
    return said
