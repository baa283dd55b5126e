"""Pickles that give themselves away: reading one leaves a file behind."""

import pickle
import zipfile
from pathlib import Path

from safetensors.torch import load_file


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
