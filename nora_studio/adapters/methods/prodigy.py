"""Prodigy with a learning rate for each group."""

import inspect
from typing import Any

import torch
from prodigyopt import Prodigy
from torch import Tensor


class SharedProdigy(Prodigy):
    """Prodigy (arXiv 2306.06101) whose groups learn at their "share" of the rate that it finds.

    The library has one rate for all groups. A share m is a change of variables: Prodigy trains
    p / m, whose gradient is m times that of p, so its step of size d * lr moves p by m * d * lr.

    Weights that are no longer trained do not move. Their gradients count as zero, so that they fade
    from numerator and denominator of the fraction that estimates d; left out of the denominator
    alone, they would make d jump.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one optimizer step, at each group's share of the rate."""
        frozen = [p for group in self.param_groups for p in self._freeze(group)]
        for parameter in frozen:
            parameter.grad = torch.zeros_like(parameter)
        scaled = [
            (parameter, group["share"])
            for group in self.param_groups
            for parameter in group["params"]
            if group["share"] != 1 and parameter.requires_grad and parameter.grad is not None
        ]
        for parameter, share in scaled:
            parameter.div_(share)
            parameter.grad.mul_(share)
        try:
            # Without torch's wrapper, which the library's class has once one of it was created in
            # this process: hooks would run twice.
            return inspect.unwrap(Prodigy.step)(self, closure)
        finally:
            for parameter, share in scaled:
                parameter.mul_(share)
                parameter.grad.div_(share)
            for parameter in frozen:
                parameter.grad = None

    def _freeze(self, group: dict[str, Any]) -> list[Tensor]:
        """Stop a group's weights that are no longer trained, and return them."""
        found = [p for p in group["params"] if not p.requires_grad and self.state.get(p)]
        for parameter in found:
            self.state[parameter]["exp_avg"].zero_()
        if found:
            group["weight_decay"] = 0.0
        return found
