"""A network for fused layers, and its training with what they share in each step, or without."""

import torch
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import adapter_parameters
from nora_studio.nora.stacked import GroupedLayers

WIDTH, OUT = 24, 32
TARGETS = ["0", "2", "4"]
STEPS = 20


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Three layers of two shapes, with bias and without, behind one another."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(WIDTH, OUT), nn.GELU(), nn.Linear(OUT, WIDTH), nn.GELU(),
        nn.Linear(WIDTH, OUT, bias=False),
    ).to(dtype)  # fmt: skip


def trained(
    model: nn.Module, tensors: GroupedLayers | None, rate: float
) -> tuple[list[float], list[Tensor]]:
    """Losses and weights of some steps on the same data."""
    parameters = list(adapter_parameters(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.1)
    generator, losses = torch.Generator().manual_seed(1), []
    x = torch.randn(5, WIDTH, dtype=torch.float64, generator=generator)
    target = torch.randn(5, OUT, dtype=torch.float64, generator=generator)
    for step in range(STEPS):
        torch.manual_seed(step)  # Of dropout.
        if tensors is not None:
            tensors.form()
        loss = (model(x) - target).square().mean()
        loss.backward()
        if tensors is not None:
            tensors.drop()
        losses.append(loss.item())
        optimizer.step()
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.zero_()
    return losses, [parameter.detach().clone() for parameter in parameters]
