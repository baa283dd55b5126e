"""Decide which CLIP scores the images of a base: the one that is named, the embedded one, or none.

The embedded CLIP was trained only on the embedded world, so it scores only the embedded base. The
CLIP is loaded elsewhere (`scores.load_scorer`).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED, embedded
from nora_studio.runs.tensor_headers import read_header
from nora_studio.runs.weight_files import weights_of_folder

PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")
TOLERANCE = 6e-3
"""Largest relative difference of equal tensors: bfloat16 causes 2e-3, training far more."""

Files = tuple[tuple[Path, int, int], ...]
"""Path, modification time in nanoseconds, and size in bytes of each."""


def judge_for(base: str, named: str | None = None) -> str | None:
    """Return the name of the CLIP that scores images of a base; None if there is none.

    Args:
        base: The value of `--model`: the base that generates the images.
        named: The value of `--clip`; None if it is not given.

    Returns:
        A name for `scores.load_scorer`.
    """
    if named is not None:
        return named
    return EMBEDDED if is_embedded_base(base) else None


def why_unscored(base: str) -> str:
    """Return the reason why images of a base without a judge have no scores, and the remedy."""
    return (
        "the embedded judge works only for the embedded model's images, and "
        f"{base[:120]!r} is another base. Choose a judge with --clip (in the app: the field "
        "Judge), such as ViT-B-32:openai."
    )


def require_judge(base: str, named: str | None = None) -> str:
    """Return the name of the CLIP that scores images of a base, as `judge_for`.

    Raises:
        StudioError: none is named, and the base is not the embedded one.
    """
    judge = judge_for(base, named)
    if judge is None:
        raise StudioError(f"these images cannot be scored: {why_unscored(base)}")
    return judge


def is_embedded_base(base: str) -> bool:
    """Return whether a base is the embedded SDXL: by its name, directory or weights.

    A copy counts, whatever its floating-point type and number of files; a copy that was trained
    further or has an adapter merged into it does not. Names on the Hub never count, as their
    weights are unknown before they are loaded.
    """
    if base == EMBEDDED:
        return True
    folder, own = Path(base).expanduser(), embedded("mini-sdxl")
    try:
        if not folder.is_dir():
            return False
        if folder.samefile(own):
            return True
        return all(_same_weights(_files(folder / part), _files(own / part)) for part in PARTS)
    except (OSError, ValueError):
        return False


def _files(folder: Path) -> Files:
    """Return a part's safetensors files, as its loader finds them.

    Raises:
        OSError: there are none, or one is missing.
    """
    files = weights_of_folder(folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights")
    return tuple(_stamped(file) for file in files)


def _stamped(file: Path) -> tuple[Path, int, int]:
    status = file.stat()
    return file, status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=64)  # A page calls it every two seconds.
def _same_weights(files: Files, own: Files) -> bool:
    """Return whether files have the same tensors as others, up to rounding to half precision."""
    try:
        if _shapes(files) != _shapes(own):  # Headers suffice to reject other models.
            return False
        expected = dict(_tensors(own))
        return all(_is_close(tensor, expected[name]) for name, tensor in _tensors(files))
    except (SafetensorError, StudioError):
        return False


def _shapes(files: Files) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for file, *_ in files:
        shapes |= read_header(file).shapes
    return shapes


def _tensors(files: Files) -> Iterator[tuple[str, torch.Tensor]]:
    for file, *_ in files:
        with safe_open(file, framework="pt") as archive:
            for name in archive.keys():  # noqa: SIM118
                yield name, archive.get_tensor(name)


def _is_close(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    gap = (tensor.double() - expected.double()).norm()
    return bool(gap <= TOLERANCE * expected.double().norm())
