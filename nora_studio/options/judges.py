"""Decide which CLIP scores the pictures of a base: the one that is named, or none.

The embedded CLIP has seen nothing but the embedded world, so it scores the embedded base alone.
Nothing is loaded here; `scores.load_scorer` does that by the name that is decided on.
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
"""Of a tensor's norm: bfloat16 moves it by 2e-3, training by far more."""

Files = tuple[tuple[Path, int, int], ...]
"""Path, time of change in nanoseconds and bytes of each."""


def judge_for(base: str, named: str | None = None) -> str | None:
    """Name the CLIP that scores pictures of a base; None where nothing may score them.

    Args:
        base: As `--model` takes it. An adapter's base is the one that it is drawn with.
        named: What `--clip` says; None: nothing.

    Returns:
        A name for `scores.load_scorer`.
    """
    if named is not None:
        return named
    return EMBEDDED if is_embedded_base(base) else None


def why_unscored(base: str) -> str:
    """Say in one line why pictures of a base without a judge have no scores, and the remedy."""
    return (
        "not scored: the embedded judge knows only the embedded model's pictures, and "
        f"{base[:120]!r} is another base. Name a judge with --clip (in the app: the field Judge), "
        "such as ViT-B-32:openai."
    )


def require_judge(base: str, named: str | None = None) -> str:
    """Name the CLIP that scores pictures of a base, as `judge_for`.

    Raises:
        StudioError: none is named, and the base is not the embedded one.
    """
    judge = judge_for(base, named)
    if judge is None:
        raise StudioError(why_unscored(base))
    return judge


def is_embedded_base(base: str) -> bool:
    """Whether a base is the embedded SDXL: by its name, its directory, or the weights in it.

    A copy elsewhere counts, in whatever floating-point type and number of files it is stored; one
    that was trained further, or that an adapter was merged into, does not. A name on the Hub never
    counts: what it holds is only known once it is loaded.
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
    """Find a part's safetensors files, as its loader would.

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


@functools.lru_cache(maxsize=64)  # A page asks again every two seconds.
def _same_weights(files: Files, own: Files) -> bool:
    """Whether some files hold the same tensors as others, up to storage in half precision."""
    try:
        if _shapes(files) != _shapes(own):  # Read from the headers: no other model is read further.
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
