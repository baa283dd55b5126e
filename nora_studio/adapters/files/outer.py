"""NoRA's outer factors found again in a base, and probes that tell whether they are the same."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.nora import OuterCache

PROBES = 4
TOLERANCE = 2e-3
"""Of a probe, relative to the change's norm. Another device's or library's SVD of the very same
weight stays well below it; the same base rounded to another dtype is far above it."""

Factors = dict[str, Tensor]
"""A NoRA layer's tensors by PEFT's names."""


def core_of(factors: Factors) -> Tensor:  # (outer_rank, outer_rank)
    """What stands between the outer factors, without the scale, in float64."""
    wide = {name: tensor.double() for name, tensor in factors.items()}
    moved = wide["nora_inner_up"] @ wide["nora_inner_down"]
    return moved - wide["nora_inner_up_start"] @ wide["nora_inner_down_start"]


def probe(factors: Factors, scale: float) -> Tensor:  # (PROBES,)
    """Project a layer's change on fixed patterns of signs: `left^T (delta W) right`, in float64.

    With entries of plus and minus one, a probe of any error is about as large as that error's
    Frobenius norm.
    """
    up, down = factors["nora_up"].double(), factors["nora_down"].double()
    left = _signs(up.shape[0], 0.5) @ up  # (probes, outer_rank)
    right = down @ _signs(down.shape[1], 0.25).T  # (outer_rank, probes)
    return scale * ((left @ core_of(factors)) * right.T).sum(dim=1)


def _signs(length: int, phase: float) -> Tensor:  # (PROBES, length)
    # From arithmetic, not from a generator: the same in every torch release.
    count = torch.arange(PROBES * length, dtype=torch.float64).reshape(PROBES, length)
    return torch.where(torch.cos((count + phase) ** 2) < 0, -1.0, 1.0).double()


def deviation(factors: Factors, scale: float, probes: Tensor) -> float:
    """How far a layer's change is from the one that gave the probes, relative to its norm."""
    off = float((probe(factors, scale) - probes).abs().max())
    norm = abs(scale) * float(torch.linalg.matrix_norm(core_of(factors)))
    # A change of nothing has probes of nothing, whatever the outer factors.
    return off / norm if norm > 0 else off


def find_outer(
    part: str,
    layers: Mapping[str, nn.Module],
    rank: int,
    outer: str,
    dtype: torch.dtype,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Find every layer's outer pair in its weight, as it was found for training.

    Args:
        part: For messages.
        layers: Linear layers of the base.
        rank: Outer rank.
        outer: "svd" or "randomized".
        dtype: Of the base in training. A base now held in a wider one is rounded to it first,
            which gives back the same numbers.

    Raises:
        StudioError: a weight cannot be decomposed.
    """
    find = OuterCache()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    # At full size this takes minutes on a CPU.
    for name in tqdm(layers, desc=f"Outer factors of {part}", unit="layer", delay=3):
        weight: Tensor = layers[name].weight  # pyright: ignore
        try:
            up, _, down = find(weight.detach().to(dtype), rank, outer)
        except StudioError as error:
            raise StudioError(f"{part}.{name}: {error}") from error
        found[name] = up.to(dtype).cpu(), down.to(dtype).cpu()
    find.prune()
    return found
