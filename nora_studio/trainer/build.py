"""What a trainee is put together from, whatever its task: adapter, optimizer, average, penalty."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from nora_studio.adapters.base_digests import digests_of
from nora_studio.adapters.methods.attachment import adapter_parameters
from nora_studio.adapters.methods.optimizers import LORA_PLUS_RATIO, make_optimizer
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.steps import StepRules
from nora_studio.adapters.methods.table import METHODS
from nora_studio.options.part_settings import PartSettings
from nora_studio.options.settings.adapter import TuningOptions
from nora_studio.options.settings.learning import LearningOptions
from nora_studio.runs import processes
from nora_studio.trainer.averages import ExponentialAverage, ScheduleFreeAverage, WeightAverage
from nora_studio.trainer.schedules import learning_rate_schedule
from nora_studio.trainer.sharding import Sharding

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
"""A base's dtype in Accelerate's words."""


def adapter_spec(
    tuning: TuningOptions,
    method: str,
    values: PartSettings,
    total_steps: int | None,
    activations: Mapping[str, Tensor] | None = None,
) -> AdapterSpec:
    """What `attach` is asked for on one part.

    Args:
        total_steps: Of the run.
        activations: Layer -> mean |x| per input channel, for outer factors along them.
    """
    own = METHODS[method].settings
    plain = AdapterSpec(
        method=method,
        rank=values.rank,
        alpha=values.alpha,
        dropout=tuning.dropout if "dropout" in own else 0.0,
        outer_rank=values.outer_rank,
        total_steps=total_steps if "total_steps" in own else None,
    )
    if "outer" not in own:
        return plain
    return replace(plain, outer=tuning.outer, start=tuning.start, mean_abs_inputs=activations)


def optimizer_and_schedule(
    learning: LearningOptions,
    tuning: TuningOptions,
    method: str,
    parts: dict[str, nn.Module],
    rates: dict[str, float],
    first_rate: float,
    more: Sequence[dict[str, Any]] = (),
    final_rate: float = 0.0,
) -> tuple[torch.optim.Optimizer, Any]:
    """The method's optimizer over the adapted parts, and its schedule over the run.

    Args:
        rates: Peak learning rate of each part.
        first_rate: Where prodigy begins to look for the rate.
        more: Groups of what is trained beside the adapter.
        final_rate: Where a cosine ends.
    """
    optimizer = make_optimizer(
        method,
        parts,
        rates,
        learning.weight_decay,
        tuning.lora_plus_ratio or LORA_PLUS_RATIO,
        learning.optimizer,
        learning.warmup_steps,
        first_rate,
        more,
    )
    return optimizer, schedule_of(learning, optimizer, final_rate)


def schedule_of(
    learning: LearningOptions, optimizer: torch.optim.Optimizer, final_rate: float = 0.0
) -> Any:
    """The learning-rate schedule of a run."""
    return learning_rate_schedule(
        learning.schedule or "cosine",
        optimizer,
        learning.steps or 0,
        0 if learning.optimizer == "schedule-free" else learning.warmup_steps,
        learning.schedule_cycles,
        learning.schedule_power,
        final_rate,
    )


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


def average_of(
    learning: LearningOptions, trained: list[nn.Parameter], optimizer: Any
) -> WeightAverage | None:
    """What is served in the place of the trained weights; None: they are."""
    if learning.optimizer == "schedule-free":
        return ScheduleFreeAverage(trained, optimizer)
    return None if learning.ema is None else ExponentialAverage(trained, learning.ema)


def trained_parameters(parts: dict[str, nn.Module]) -> list[nn.Parameter]:
    """The adapters' trained weights, part by part."""
    return [p for module in parts.values() for p in adapter_parameters(module).values()]


def with_penalty(step: nn.Module, rules: StepRules) -> None:
    """Have a step's loss carry the gradient of the method's penalty, but not its value."""

    def add(module: nn.Module, inputs: object, loss: Tensor) -> Tensor:
        penalty = rules.penalty()
        return loss if penalty is None else loss + (penalty - penalty.detach())

    # A hook, so that the penalty is part of the forward pass that data parallelism watches.
    step.register_forward_hook(add)


def main_first_where_kept(cache: bool) -> contextlib.AbstractContextManager[None]:
    """A block in which the main process finds outer factors; kept on disk, the others read them."""
    return processes.main_first() if cache else contextlib.nullcontext()


def shared_digests(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """`digests_of` some parts; the main process reads the base's files, the others what it kept."""
    with processes.main_first():
        return digests_of(modules)


def prepare_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator for one trainee."""
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[_data_parallel()])


def _data_parallel() -> DistributedDataParallelKwargs:
    # The text encoders' pooled and penultimate outputs leave single layers without a gradient.
    return DistributedDataParallelKwargs(find_unused_parameters=True)
