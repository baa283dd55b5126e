"""Accelerate for one run: an accelerator of its own, with DDP or the trainer's own sharding."""

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch import nn
from torch.optim import Optimizer

from nora_studio.trainer.sharding import Sharding

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""Accelerate's name of the mixed precision for each dtype of a base."""


def without_autocast(accelerator: Accelerator) -> None:
    """Run a step as it is, for layers that compute in the base's bfloat16 by themselves.

    Autocast would compute every norm in float32 and convert weights and inputs in every call. In
    float16 it stays, as the norms need its range.
    """
    if accelerator.mixed_precision == "bf16":
        accelerator.autocast_handler = AutocastKwargs(enabled=False)  # pyright: ignore


def prepared(
    accelerator: Accelerator,
    step: nn.Module,
    optimizer: torch.optim.Optimizer,
    sharding: Sharding | None = None,
) -> tuple[nn.Module, Optimizer]:
    """Return a step and its optimizer, wrapped for the processes and the precision."""
    if sharding is None:
        model, own = accelerator.prepare(step, optimizer)
    else:
        model = sharding.prepare(accelerator, step, _ddp_kwargs())
        own = accelerator.prepare_optimizer(optimizer)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Frozen factors and constants were broadcast once; doing so at each step would be waste.
        model.broadcast_buffers = False
    return model, own


def prepare_accelerator(mixed_precision: str) -> Accelerator:
    """Return an accelerator for one run."""
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[_ddp_kwargs()])


def _ddp_kwargs() -> DistributedDataParallelKwargs:
    # Some layers of the text encoders get no gradient from their pooled and penultimate outputs.
    return DistributedDataParallelKwargs(find_unused_parameters=True)
