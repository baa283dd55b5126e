"""Good adapter files of every format, and how a test spoils and offers one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nora_studio.cli import export
from nora_studio.errors import StudioError
from nora_studio.runs.tensor_files import write_tensors
from nora_studio.runs.tensor_headers import read_header
from support.tiny import tiny_adapter


def good_files(folder: Path, pipe, base: Path) -> dict[str, Path]:
    """A good NoRA as a folder, and as a file of each format."""
    found = {"folder": tiny_adapter(folder / "adapter", pipe, "nora")}
    for style in ("kohya", "diffusers", "seed"):
        found[style] = folder / f"{style}.safetensors"
        export.run(export.Options(found["folder"], style, found[style], model=str(base)))
    return found


def assert_refused(call, file: Path, *words: str) -> None:
    with pytest.raises(StudioError) as refused:
        call(file)
    said = str(refused.value)
    assert "\n" not in said and file.name in said, said
    for word in words:
        assert word in said, said


def with_tensors(source: Path, file: Path, change: dict[str, torch.Tensor]) -> Path:
    write_tensors(file, load_file(source) | change, read_header(source).metadata)
    return file
