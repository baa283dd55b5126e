"""NoRA's update as one autograd function, for outer ranks far above the inner one.

Computed as `up core down`, every token costs two products with the outer pair forward and two
backward. All but one of them can be avoided, exactly. Forward, `up` times the inner factors is
computed once for all tokens (out_features x 2 rank). Backward, `inner_down` times `down` is too, so
no gradient has the width of the outer rank. What remains is `down` on each token. Only its result,
outer_rank wide, is kept for the backward pass; the layer's input, which LoRA keeps, is not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_RATIO = 16
"""Smallest ratio of outer to inner rank at which the fused update is used."""


def is_cheaper(tokens: int, outer_rank: int, rank: int) -> bool:
    """Return whether the fused update multiplies less; for few tokens it does not."""
    return (
        outer_rank >= LEAST_RATIO * rank
        and tokens * (outer_rank - 2 * rank) > 2 * rank * outer_rank
    )


class FusedUpdate(torch.autograd.Function):
    """`result + scale * up (moved_up inner_down + start_up moved_down) down x`.

    All tensors have one dtype, except the inner factors, which may be wider.
    """

    @staticmethod
    def forward(
        ctx: Any,
        result: Tensor,  # (tokens, out_features): the base layer's output
        x: Tensor,  # (tokens, in_features)
        moved_up: Tensor,  # (outer_rank, rank)
        inner_down: Tensor,  # (rank, outer_rank)
        moved_down: Tensor,  # (rank, outer_rank)
        start_up: Tensor,  # (outer_rank, rank), frozen
        up: Tensor,  # (out_features, outer_rank), frozen
        down: Tensor,  # (outer_rank, in_features), frozen
        scale: float,
    ) -> Tensor:
        """Return the base layer's output plus the update: (tokens, out_features)."""
        dtype = down.dtype
        right = torch.cat([inner_down, moved_down]).to(dtype)  # (2 rank, outer_rank)
        left = up @ (torch.cat([moved_up, start_up], dim=1) * scale).to(dtype)
        projected = x @ down.T  # (tokens, outer_rank)
        hidden = projected @ right.T  # (tokens, 2 rank)
        ctx.save_for_backward(projected, hidden, left, right, up, down)
        ctx.scale, ctx.inner_dtype = scale, moved_up.dtype
        return torch.addmm(result, hidden, left.T)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of `forward`'s arguments; None for the frozen ones."""
        projected, hidden, left, right, up, down = ctx.saved_tensors
        (gradient,) = gradients
        rank = right.shape[0] // 2
        gradient_hidden = gradient @ left  # (tokens, 2 rank)
        gradient_right = (gradient_hidden.T @ projected).to(ctx.inner_dtype)
        # Only for the trained half of `left`; the other half is the start, which is frozen.
        gradient_left = gradient.T @ hidden[:, :rank]  # (out_features, rank)
        gradient_up = (up.T @ gradient_left).to(ctx.inner_dtype) * ctx.scale
        gradient_x = gradient_hidden @ (right @ down) if ctx.needs_input_grad[1] else None
        return (
            gradient,
            gradient_x,
            gradient_up,
            gradient_right[:rank],
            gradient_right[rank:],
            None,
            None,
            None,
            None,
        )
