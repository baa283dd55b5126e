"""Regenerate NoRA's outer factors from a base, and check by probes that they are the same."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.nora import OuterCache

PROBES = 4
TOLERANCE = 2e-3
"""Largest deviation of a probe, relative to the change's norm. The SVD of the same weight on
another device or by another library is well below it; the base rounded to another dtype is far
above it."""

Factors = dict[str, Tensor]
"""A NoRA layer's tensors by PEFT's names."""


def core_of(factors: Factors) -> Tensor:  # (outer_rank, outer_rank)
    """Return the product between the outer factors, without the scale, in float64."""
    wide = {name: tensor.double() for name, tensor in factors.items()}
    moved = wide["nora_inner_up"] @ wide["nora_inner_down"]
    return moved - wide["nora_inner_up_start"] @ wide["nora_inner_down_start"]


def probe(factors: Factors, scale: float) -> Tensor:  # (PROBES,)
    """Project a layer's change on fixed patterns of signs: `left^T (delta W) right`, in float64.

    Since the entries are plus and minus one, an error changes a probe by about its Frobenius norm.
    """
    up, down = factors["nora_up"].double(), factors["nora_down"].double()
    left = _signs(up.shape[0], 0.5) @ up  # (probes, outer_rank)
    right = down @ _signs(down.shape[1], 0.25).T  # (outer_rank, probes)
    return scale * ((left @ core_of(factors)) * right.T).sum(dim=1)


def _signs(length: int, phase: float) -> Tensor:  # (PROBES, length)
    # Signs from arithmetic, not from a generator, to be the same in every torch release.
    count = torch.arange(PROBES * length, dtype=torch.float64).reshape(PROBES, length)
    return torch.where(torch.cos((count + phase) ** 2) < 0, -1.0, 1.0).double()


def deviation(factors: Factors, scale: float, probes: Tensor) -> float:
    """Return how far a layer's change is from the probed one, relative to its norm."""
    off = float((probe(factors, scale) - probes).abs().max())
    norm = abs(scale) * float(torch.linalg.matrix_norm(core_of(factors)))
    # A change of zero has probes of zero, whatever the outer factors.
    return off / norm if norm > 0 else off


def regenerate_outer(
    part: str,
    layers: Mapping[str, nn.Module],
    rank: int,
    outer: str,
    dtype: torch.dtype,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute every layer's outer pair from its weight, as for training.

    The factors are kept in the user's cache folder: computing them takes minutes on a CPU.

    Args:
        part: The part's name, for messages.
        layers: Linear layers of the base.
        rank: Outer rank.
        outer: "svd" or "randomized".
        dtype: The base's dtype in training. A base that is now in a wider one is rounded to it
            first, which restores the same numbers.

    Raises:
        StudioError: a weight cannot be decomposed.
    """
    find = OuterCache()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in tqdm(layers, desc=f"Outer factors of {part}", unit="layer", delay=3):
        weight: Tensor = layers[name].weight  # pyright: ignore
        try:
            up, _, down = find(weight.detach().to(dtype), rank, outer)
        except StudioError as error:
            raise StudioError(f"{part}.{name}: {error}") from error
        found[name] = up.to(dtype).cpu(), down.to(dtype).cpu()
    find.prune()
    return found
