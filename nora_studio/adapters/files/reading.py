"""Read any adapter file onto a base, whatever format it is in."""

from pathlib import Path

from peft import PeftConfig
from torch import Tensor, nn

from nora_studio.adapters.files.identify import open_header
from nora_studio.adapters.files.portable import read_portable
from nora_studio.adapters.files.seed_reading import read_seed

Loaded = dict[str, tuple[PeftConfig, dict[str, Tensor]]]
"""Part -> PEFT's configuration and its tensors, keys without PEFT's prefix."""


def read_file(file: Path, parts: dict[str, nn.Module]) -> Loaded:
    """Read a seed file or a portable LoRA for a base that carries no adapter.

    Raises:
        StudioError: it is another kind of file, damaged, or made for another base.
    """
    if open_header(file)[1].kind == "seed":
        return dict(read_seed(file, parts))
    return read_portable(file, parts)
