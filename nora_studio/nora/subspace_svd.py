"""The leading singular triplets of a large matrix, in float64, without its full decomposition.

They are computed from the eigenvectors of the smaller Gram matrix: by Chebyshev-filtered subspace
iteration (Zhou, Saad, Tiago & Chelikowsky 2006, algorithm 4.2), whose products with a narrow block
are fast on every device, or by a full symmetric solver where the block would be too wide or the
spectrum too flat. The result is checked; if it is not accurate, the full SVD is computed instead.
"""

import math

import torch
from torch import Tensor

SMALL = 256
"""Matrices with a smaller side below this get the full SVD: it takes milliseconds."""

NARROW = {"cpu": 16}
"""By device: how many times larger than the rank the smaller side must be for the iteration to be
faster than a full solver."""

NARROW_ELSEWHERE = 4
"""The same on other devices, where products are far faster than solvers."""

PRODUCTS = {"cpu": 30}
"""By device: the number of products of Gram matrix and block after which the full solver is
faster."""

PRODUCTS_ELSEWHERE = 400
"""The same on other devices, where products are far faster than solvers."""

RESIDUAL = 1e-11
"""Limit on each eigenpair's residual, relative to its eigenvalue. Singular values of a trained
weight are 1e-4 or more apart, so its vectors agree between machines to 1e-6 or better."""

FLOOR = 1e-14
"""Added to that limit, relative to the largest eigenvalue: float64 is no more accurate."""

LOWEST_RATIO = 1e-3
"""Limit on the last singular value over the first: below it, the Gram matrix squares away too much
accuracy of the last vectors."""

GROWTH = 1e7
"""Largest amplification by one filter; more would lose the small directions to rounding."""


def leading_singular_triplets(
    weight: Tensor,  # (out_features, in_features)
    rank: int,
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Find the largest singular values with their vectors, accurate to float64.

    Args:
        weight: Finite, of any floating-point dtype; converted to float64.
        rank: Between 1 and min(out_features, in_features).

    Returns:
        `up`, `singular`, `down` in float64, singular values descending, signs arbitrary.
    """
    wide = weight.to(torch.float64)
    if min(wide.shape) >= SMALL:
        found = _by_gram(wide if wide.shape[0] <= wide.shape[1] else wide.T, rank)
        if found is not None:
            short, singular, long = found
            up, down = (short, long) if len(short) == wide.shape[0] else (long, short)
            return up, singular, down.T
    up, singular, down = torch.linalg.svd(wide, full_matrices=False)
    return up[:, :rank], singular[:rank], down[:rank]


def _by_gram(
    flat: Tensor,  # (rows, columns), rows <= columns
    rank: int,
) -> tuple[Tensor, Tensor, Tensor] | None:  # (rows, rank), (rank,), (columns, rank)
    """Return left vectors, singular values and right vectors; None if not accurate enough."""
    gram = flat @ flat.T
    left = _by_subspace(gram, rank)
    if left is None:
        left = torch.linalg.eigh(gram)[1][:, -rank:].flip(1)
    right = flat.T @ left
    singular = right.norm(dim=0)
    if not bool(singular[-1] > LOWEST_RATIO * singular[0]):
        return None
    right = right / singular
    identity = torch.eye(rank, dtype=flat.dtype, device=flat.device)
    error = max(float((basis.T @ basis - identity).abs().max()) for basis in (left, right))
    return (left, singular, right) if error < 1e-8 else None


def _by_subspace(
    gram: Tensor,  # (rows, rows), symmetric, no negative eigenvalues
    rank: int,
) -> Tensor | None:  # (rows, rank)
    """Return orthonormal eigenvectors of the largest eigenvalues, descending; None if too slow."""
    if rank * NARROW.get(gram.device.type, NARROW_ELSEWHERE) > len(gram):
        return None
    allowed = PRODUCTS.get(gram.device.type, PRODUCTS_ELSEWHERE)
    # With its own generator on the CPU: no global random state is read or changed.
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(len(gram), 2 * rank + 16, generator=generator, dtype=gram.dtype)
    basis = _orthonormal(start.to(gram.device))
    products, cycles = 0, 0
    while basis is not None:
        block, image, values = _rayleigh_ritz(gram, basis)
        products += 1
        first, last, cutoff = (float(values[i]) for i in (0, rank - 1, -1))
        residual = (image - block * values.to(image.device))[:, :rank].norm(dim=0).cpu()
        excess = float((residual / (RESIDUAL * values[:rank] + FLOOR * first)).max())
        if excess <= 1:
            return block[:, :rank]
        # The spectrum is flat or singular: a filter cannot separate it.
        if not 0 < cutoff * (1 + 1e-9) < last:
            return None
        # Logarithm of the last pair's gain in one product.
        gain = math.acosh(2 * last / cutoff - 1)
        if cycles > 1 and products + math.log(excess) / gain > allowed:
            return None
        wanted = math.log(excess) / gain
        safe = math.log(GROWTH) / math.acosh(2 * first / cutoff - 1)
        degree = max(2, min(math.ceil(wanted), int(safe)))
        basis = _orthonormal(_filter(gram, block, image, cutoff, degree))
        products, cycles = products + degree - 1, cycles + 1
    return None


def _rayleigh_ritz(gram: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's Ritz vectors, their images, and the Ritz values on the CPU, descending."""
    image = gram @ block
    # The matrix is small, and the solver far faster on the CPU than on a GPU.
    values, vectors = torch.linalg.eigh((block.T @ image).cpu())
    vectors = vectors.flip(1).to(gram.device)
    return block @ vectors, image @ vectors, values.flip(0)


def _filter(gram: Tensor, block: Tensor, image: Tensor, cutoff: float, degree: int) -> Tensor:
    """Apply the Chebyshev polynomial that is at most 1 on [0, cutoff] and grows fastest beyond."""
    previous, current = block, image * (2 / cutoff) - block
    for _ in range(degree - 1):
        following = torch.addmm(previous + 2 * current, gram, current, beta=-1, alpha=4 / cutoff)
        previous, current = current, following
    return current


def _orthonormal(block: Tensor) -> Tensor | None:
    """Return an orthonormal basis by Cholesky QR, done twice; None if it breaks down.

    Source: Yamamoto et al. (2015), CholeskyQR2.
    """
    for _ in range(2):
        block = block / block.norm(dim=0)
        factor, info = torch.linalg.cholesky_ex(block.T @ block)
        if int(info) or not bool(torch.isfinite(factor).all()):
            return None
        block = torch.linalg.solve_triangular(factor.T, block, upper=True, left=False)
    return block
