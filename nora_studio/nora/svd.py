"""Low-rank factors of a weight: exact, randomized and activation-aware, on plain tensors."""

import math
from typing import Protocol

import torch
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.nora.subspace_svd import leading_singular_triplets

Factors = tuple[Tensor, Tensor, Tensor]
"""`up` (out_features, rank), `singular` (rank,) and `down` (rank, in_features)."""


class FindOuter(Protocol):
    """A function that computes a weight's outer factors, as `outer_factors` does."""

    def __call__(
        self, weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None, /
    ) -> Factors:
        """Return the factors of `weight`; the arguments are those of `outer_factors`."""
        ...


def truncated_svd(
    weight: Tensor,  # (out_features, in_features)
    rank: int,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Factor a weight into its closest product of the given rank.

    Source: Eckart & Young (1936); the outer factors of NoRA, arXiv:2408.10280, eq. 3.
    Computed in float64 on the weight's device, so that devices and releases agree, except for
    rotations among equal singular values. A rank-deficient weight is allowed: its missing singular
    values are zeros (up to rounding).

    Args:
        weight: Frozen; not modified.
        rank: Between 1 and min(out_features, in_features).
        dtype: Dtype of all three results; None: the weight's own.

    Returns:
        `up`, `singular`, `down` with `up @ diag(singular) @ down` ≈ `weight`, `up` with orthonormal
        columns, `down` with orthonormal rows, singular values descending, signs canonical.

    Raises:
        StudioError: `weight` is not a finite floating-point matrix, or `rank` is out of range.
    """
    _check_matrix(weight, rank)
    return _canonical_factors(
        *leading_singular_triplets(weight.detach(), rank), dtype or weight.dtype
    )


def randomized_svd(
    weight: Tensor,  # (out_features, in_features)
    rank: int,
    dtype: torch.dtype | None = None,
    oversampling: int = 16,
    iterations: int = 4,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Approximate `truncated_svd` by random projection, many times faster on large weights.

    Source: Halko, Martinsson & Tropp (2011), algorithms 4.4 and 5.1. The random numbers come from
    a generator on the CPU: the result depends on the arguments alone, and no global random state is
    read or changed (`torch.svd_lowrank` uses the global one).

    Args:
        weight: Frozen; not modified.
        rank: Between 1 and min(out_features, in_features).
        dtype: Dtype of all three results; None: the weight's own.
        oversampling: Extra directions that are computed and dropped.
        iterations: Power iterations; each makes the spectrum decay faster.
        seed: Seed of the random projection.

    Returns:
        The same as `truncated_svd`.

    Raises:
        StudioError: For the same reasons as `truncated_svd`.
    """
    _check_matrix(weight, rank)
    wide = weight.detach().to(torch.float64)
    width = min(rank + oversampling, *wide.shape)
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(wide.shape[1], width, generator=generator, dtype=wide.dtype)
    basis, _ = torch.linalg.qr(wide @ probe.to(wide.device))
    for _ in range(iterations):
        # Orthonormalised after each product: plain powers lose the small directions to rounding.
        co_basis, _ = torch.linalg.qr(wide.T @ basis)
        basis, _ = torch.linalg.qr(wide @ co_basis)
    inner, singular, down = torch.linalg.svd(basis.T @ wide, full_matrices=False)
    up = basis @ inner[:, :rank]
    return _canonical_factors(up, singular[:rank], down[:rank], dtype or weight.dtype)


def activation_aware_svd(
    weight: Tensor,  # (out_features, in_features)
    mean_abs_input: Tensor,  # (in_features,)
    rank: int,
    power: float = 1.0,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Factor a weight along the directions that its inputs use.

    Source: the ICCV 2025 version of NoRA. Decomposes `weight @ diag(s)` with
    `s = mean_abs_input ** power` and undoes `s` on the input side. Channels that are (almost)
    never active are raised to a thousandth of the most active one: dividing by their own `s` would
    amplify rounding noise without bound.

    Args:
        weight: Frozen; not modified.
        mean_abs_input: Mean of |x| per input channel over a calibration batch; not negative.
        rank: Between 1 and min(out_features, in_features).
        power: Exponent of the mean; 0 gives `truncated_svd`.
        dtype: Dtype of all three results; None: the weight's own.

    Returns:
        `up`, `singular`, `down` with `up @ diag(singular) @ down` ≈ `weight`. The rows of `down`
        are not orthonormal; those of `down @ diag(s)` are.

    Raises:
        StudioError: For the same reasons as `truncated_svd`, or the statistics do not fit the
            weight.
    """
    _check_matrix(weight, rank)
    if mean_abs_input.shape != (weight.shape[1],):
        raise StudioError(
            f"activation statistics must hold one value per input channel, ({weight.shape[1]},); "
            f"got shape {tuple(mean_abs_input.shape)}. Record them on this layer."
        )
    if not math.isfinite(power) or power < 0:
        raise StudioError(
            f"the power of the activation statistics must be finite and 0 or more; got {power}."
        )
    wide = weight.detach().to(torch.float64)
    activity = mean_abs_input.to(wide)
    if not bool(torch.isfinite(activity).all()) or bool((activity < 0).any()):
        raise StudioError(
            "activation statistics must be means of |x|, finite and not negative; got NaN, "
            "infinity or a negative number. Record them again on undamaged inputs."
        )
    if not bool((activity > 0).any()):
        raise StudioError(
            "activation statistics are all zero: no calibration input reached this layer. "
            "Calibrate with real inputs, or use the plain SVD."
        )
    importance = activity.clamp(min=float(activity.max()) * 1e-3) ** power
    up, singular, down = leading_singular_triplets(wide * importance, rank)
    return _canonical_factors(up, singular, down / importance, dtype or weight.dtype)


def canonical_signs(
    up: Tensor,  # (out_features, rank)
    down: Tensor,  # (rank, in_features)
) -> tuple[Tensor, Tensor]:  # (out_features, rank), (rank, in_features)
    """Choose the signs: each left vector's entry of largest magnitude becomes positive.

    A pair of singular vectors is determined only up to a common sign, and libraries, devices and
    dtypes choose differently. The product `up @ down` does not change.
    """
    rows = up.abs().argmax(dim=0, keepdim=True)
    signs = torch.where(up.gather(0, rows) < 0, -1.0, 1.0).to(up.dtype)  # (1, rank)
    return up * signs, down * signs.T


def outer_factors(
    weight: Tensor,  # (out_features, in_features)
    rank: int,
    outer: str,
    mean_abs_input: Tensor | None = None,  # (in_features,)
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Compute the factors that NoRA freezes, and the singular values that it starts from.

    These are `up`, `singular` and `down`: `up @ diag(singular) @ down` approximates `weight`.
    Computed in float64, and returned in float32 or in the weight's dtype where that is wider.

    Args:
        weight: Frozen; not modified.
        rank: Between 1 and min(out_features, in_features).
        outer: How they are computed: "svd", "randomized" or "activation".
        mean_abs_input: Mean of |x| per input channel; for "activation" alone.

    Raises:
        StudioError: The weight cannot be decomposed, is all zeros, or has no statistics.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if outer == "svd":
        factors = truncated_svd(weight, rank, dtype)
    elif outer == "randomized":
        factors = randomized_svd(weight, rank, dtype)
    elif mean_abs_input is None:
        raise StudioError("there are no activation statistics of this layer. Record it too.")
    else:
        factors = activation_aware_svd(weight, mean_abs_input, rank, dtype=dtype)
    if not bool(factors[1][0] > 0):
        raise StudioError(
            f"the {weight.shape[0]}x{weight.shape[1]} weight is all zeros: NoRA starts from its "
            "singular values and would never learn there. Load trained weights."
        )
    return factors


def _canonical_factors(
    up: Tensor, singular: Tensor, down: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    up, down = canonical_signs(up, down)
    return up.to(dtype).contiguous(), singular.to(dtype), down.to(dtype).contiguous()


def _check_matrix(weight: Tensor, rank: int) -> None:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise StudioError(
            f"an SVD needs a floating-point matrix (out_features, in_features); got {weight.dtype} "
            f"of shape {tuple(weight.shape)}. Dequantise or reshape the weight first."
        )
    if not 1 <= rank <= min(weight.shape):
        rows, columns = weight.shape
        raise StudioError(
            f"rank must be 1-{min(rows, columns)} for a {rows}x{columns} weight; got {rank}."
        )
    if not bool(torch.isfinite(weight).all()):
        raise StudioError(
            f"the {weight.shape[0]}x{weight.shape[1]} weight holds NaN or infinity; "
            "an SVD needs finite numbers. Load an undamaged model."
        )
