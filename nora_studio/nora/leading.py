"""The leading singular triplets of a large matrix, in float64, without its whole decomposition.

They come from the eigenvectors of the smaller Gram matrix: by Chebyshev-filtered subspace iteration
(Zhou, Saad, Tiago & Chelikowsky 2006, algorithm 4.2), which is products with a narrow block that
every device is fast at, or by a full symmetric solver where the block would be too wide or the
spectrum too flat. Either answer is checked; one that fails is replaced by the full SVD's.
"""

import math

import torch
from torch import Tensor

SMALL = 256
"""Matrices whose smaller side is below this are decomposed whole: it takes milliseconds."""

NARROW = {"cpu": 16}
"""How many times the rank must fit into the smaller side for the iteration to win, by device..."""

NARROW_ELSEWHERE = 4
"""...and where products are far faster than solvers."""

PRODUCTS = {"cpu": 30}
"""Products of Gram matrix and block after which the full solver is faster, by device..."""

PRODUCTS_ELSEWHERE = 400
"""...and where products are far faster than solvers."""

RESIDUAL = 1e-11
"""Of each eigenpair, over its eigenvalue. Gaps between singular values of a trained weight are 1e-4
and more, so its vectors come out the same on every machine to 1e-6 and better."""

FLOOR = 1e-14
"""Of each eigenpair, over the largest eigenvalue: float64 can do no better."""

LOWEST_RATIO = 1e-3
"""Of the last singular value over the first: below it, squaring in the Gram matrix costs too much
of the last vectors."""

GROWTH = 1e7
"""Largest amplification by one filter: more would drown the small directions in rounding."""


def leading_singular_triplets(
    weight: Tensor,  # (out_features, in_features)
    rank: int,
) -> tuple[Tensor, Tensor, Tensor]:  # (out_features, rank), (rank,), (rank, in_features)
    """Find the largest singular values with their vectors, accurate to float64.

    Args:
        weight: Finite; computed with in float64.
        rank: Between 1 and min(out_features, in_features).

    Returns:
        `up`, `singular`, `down` in float64, singular values descending, signs as they fall.
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
    """Return left vectors, singular values and right vectors; None: not accurate enough."""
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
    """Return orthonormal eigenvectors of the largest eigenvalues, descending; None: too slow."""
    if rank * NARROW.get(gram.device.type, NARROW_ELSEWHERE) > len(gram):
        return None
    allowed = PRODUCTS.get(gram.device.type, PRODUCTS_ELSEWHERE)
    # An own generator on the CPU: no global random state is read or changed.
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
        # A flat or a singular spectrum: there is nothing that a filter could lift.
        if not 0 < cutoff * (1 + 1e-9) < last:
            return None
        gain = math.acosh(2 * last / cutoff - 1)  # Of the last pair, in one product; a logarithm.
        if cycles > 1 and products + math.log(excess) / gain > allowed:
            return None
        wanted, safe = (
            math.log(excess) / gain,
            math.log(GROWTH) / math.acosh(2 * first / cutoff - 1),
        )
        degree = max(2, min(math.ceil(wanted), int(safe)))
        basis = _orthonormal(_filter(gram, block, image, cutoff, degree))
        products, cycles = products + degree - 1, cycles + 1
    return None


def _rayleigh_ritz(gram: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn a block to its best eigenvectors: them, their images, and their values on the CPU."""
    image = gram @ block
    # Small, and far faster there than on a GPU.
    values, turn = torch.linalg.eigh((block.T @ image).cpu())
    turn = turn.flip(1).to(gram.device)
    return block @ turn, image @ turn, values.flip(0)


def _filter(gram: Tensor, block: Tensor, image: Tensor, cutoff: float, degree: int) -> Tensor:
    """Apply the Chebyshev polynomial that is at most 1 on [0, cutoff] and grows fastest beyond."""
    before, now = block, image * (2 / cutoff) - block
    for _ in range(degree - 1):
        before, now = now, torch.addmm(before + 2 * now, gram, now, beta=-1, alpha=4 / cutoff)
    return now


def _orthonormal(block: Tensor) -> Tensor | None:
    """An orthonormal basis by twice Cholesky (Yamamoto et al. 2015); None if that breaks down."""
    for _ in range(2):
        block = block / block.norm(dim=0)
        factor, info = torch.linalg.cholesky_ex(block.T @ block)
        if int(info) or not bool(torch.isfinite(factor).all()):
            return None
        block = torch.linalg.solve_triangular(factor.T, block, upper=True, left=False)
    return block
