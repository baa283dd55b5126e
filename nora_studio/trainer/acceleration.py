"""Accelerate, as a run in training uses it: one accelerator each, DDP or shards of ours."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from nora_studio.trainer.sharding import Sharding

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""A base's dtype in Accelerate's words."""


def prepared(
    accelerator: Accelerator,
    step: nn.Module,
    optimizer: torch.optim.Optimizer,
    sharding: Sharding | None = None,
) -> tuple[nn.Module, Any]:
    """Step and optimizer as the processes and the precision want them."""
    if sharding is None:
        model, own = accelerator.prepare(step, optimizer)
    else:
        model = sharding.prepare(accelerator, step, _data_parallel())
        own = accelerator.prepare_optimizer(optimizer)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Frozen factors and constants were sent once and need not be before every step.
        model.broadcast_buffers = False
    return model, own


def prepare_accelerator(mixed_precision: str) -> Accelerator:
    """Return an accelerator for one state."""
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[_data_parallel()])


def _data_parallel() -> DistributedDataParallelKwargs:
    # The text encoders' pooled and penultimate outputs leave single layers without a gradient.
    return DistributedDataParallelKwargs(find_unused_parameters=True)
