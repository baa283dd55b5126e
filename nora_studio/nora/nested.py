"""NoRA's training step where the outer rank is far above the inner one, as in language models.

Through `up core down` every token costs two products with the outer pair forward, two backward.
All but one of them can be spared, exactly: forward, `up` times the inner factors is found once for
all tokens (out_features x 2 rank); backward, so is `inner_down` times `down`, and no gradient ever
stands at the outer rank. What remains is `down` on each token, whose result, outer_rank wide, is
all that is kept for the backward pass: the layer's input, which LoRA has to keep, is not.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WORTH_IT = 16
"""Times that the outer rank must be the inner one."""


def is_worth_it(tokens: int, outer_rank: int, rank: int) -> bool:
    """Whether fewer products are computed so; for a few tokens the small ones do not pay."""
    return (
        outer_rank >= WORTH_IT * rank and tokens * (outer_rank - 2 * rank) > 2 * rank * outer_rank
    )


class NestedUpdate(torch.autograd.Function):
    """`result + up (moved_up inner_down + start_up moved_down) down x`, scaled; one dtype in all
    but the inner factors, which may be wider."""

    @staticmethod
    def forward(
        ctx: Any,
        result: Tensor,  # (tokens, out_features): what the base layer gives
        x: Tensor,  # (tokens, in_features)
        moved_up: Tensor,  # (outer_rank, rank)
        inner_down: Tensor,  # (rank, outer_rank)
        moved_down: Tensor,  # (rank, outer_rank)
        start_up: Tensor,  # (outer_rank, rank), frozen
        up: Tensor,  # (out_features, outer_rank), frozen
        down: Tensor,  # (outer_rank, in_features), frozen
        scale: float,
    ) -> Tensor:
        dtype = down.dtype
        right = torch.cat([inner_down, moved_down]).to(dtype)  # (2 rank, outer_rank)
        left = up @ (torch.cat([moved_up, start_up], dim=1) * scale).to(dtype)
        nested = x @ down.T  # (tokens, outer_rank)
        hidden = nested @ right.T  # (tokens, 2 rank)
        ctx.save_for_backward(nested, hidden, left, right, up, down)
        ctx.scale, ctx.inner_dtype = scale, moved_up.dtype
        return torch.addmm(result, hidden, left.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        nested, hidden, left, right, up, down = ctx.saved_tensors
        (gradient,) = gradients
        rank = right.shape[0] // 2
        gradient_hidden = gradient @ left  # (tokens, 2 rank)
        gradient_right = (gradient_hidden.T @ nested).to(ctx.inner_dtype)
        # Through the trained half of `left` alone; the other half belongs to the start.
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
