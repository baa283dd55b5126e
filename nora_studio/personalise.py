"""One subject's training, put together: adapters on a shared base, samples, and the final proof."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from nora_studio import __version__
from nora_studio.averages import ExponentialAverage, ScheduleFreeAverage, WeightAverage
from nora_studio.config import DreamboothOptions
from nora_studio.dreambooth import DreamboothStep
from nora_studio.files import AdapterCard, load_weights, write_adapter
from nora_studio.fingerprints import fingerprint
from nora_studio.methods import (
    LORA_PLUS_RATIO,
    METHODS,
    AdapterSpec,
    StepRules,
    adapter_parameters,
    attach,
    make_optimizer,
    step_rules,
)
from nora_studio.models import (
    parts_of,
    share_weights,
    used_targets,
)
from nora_studio.nora.outer_cache import cached_outer_factors
from nora_studio.part_settings import PartSettings
from nora_studio.recommended import first_rate
from nora_studio.runs import Run
from nora_studio.schedules import learning_rate_schedule
from nora_studio.subject import Subject
from nora_studio.trainee import Trainee


def build_trainee(
    subject: Subject,
    method: str,
    settings: dict[str, PartSettings],
    run: Run,
    accelerator: Accelerator,
) -> Trainee:
    """Attach one method to a tree of its own over the shared base, with optimizer and schedule.

    Raises:
        StudioError: a rank does not fit, or the method is unknown.
    """
    options, base = subject.options, parts_of(subject.pipe)
    torch.manual_seed(options.seed)  # Adapter initialisation.
    parts: dict[str, nn.Module] = {}
    rates = {part: values.learning_rate for part, values in settings.items()}
    for part, values in settings.items():
        module = share_weights(base[part])
        spec = _adapter_spec(options, method, values, subject.activations.get(part))
        with cached_outer_factors() if options.cache else contextlib.nullcontext():
            attach(module, used_targets(part, module, options.targets or "attention"), spec)
        parts[part] = module
    rules = step_rules(method, parts, options.seed)
    step = _step_module(subject, parts, rules)
    optimizer = make_optimizer(
        method,
        parts,
        rates,
        options.weight_decay,
        options.lora_plus_ratio or LORA_PLUS_RATIO,
        options.optimizer,
        options.warmup_steps,
        first_rate(method, options.model),
    )
    schedule = learning_rate_schedule(
        options.schedule or "cosine",
        optimizer,
        options.steps or 0,
        0 if options.optimizer == "schedule-free" else options.warmup_steps,
        options.schedule_cycles,
        options.schedule_power,
    )
    model, optimizer = accelerator.prepare(step, optimizer)
    trained = [p for module in parts.values() for p in adapter_parameters(module).values()]
    card = _card(subject, method, list(parts), sum(parameter.numel() for parameter in trained))

    return Trainee(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=trained,
        write_adapter=lambda folder, step: write_adapter(folder, parts, card.at(step)),
        load_adapter=lambda folder: load_weights(folder, parts),
        rules=rules,
        average=_average(options, trained, optimizer),
        text_encoder_steps=options.text_encoder_steps,
    )


def _average(
    options: DreamboothOptions, trained: list[nn.Parameter], optimizer: Any
) -> WeightAverage | None:
    if options.optimizer == "schedule-free":
        return ScheduleFreeAverage(trained, optimizer)
    return None if options.ema is None else ExponentialAverage(trained, options.ema)


def _adapter_spec(
    options: DreamboothOptions,
    method: str,
    values: PartSettings,
    activations: Mapping[str, Tensor] | None,
) -> AdapterSpec:
    own = METHODS[method].settings
    plain = AdapterSpec(
        method=method,
        rank=values.rank,
        alpha=values.alpha,
        dropout=options.dropout if "dropout" in own else 0.0,
        outer_rank=values.outer_rank,
        total_steps=options.steps if "total_steps" in own else None,
    )
    if "outer" not in own:
        return plain
    return replace(plain, outer=options.outer, start=options.start, mean_abs_inputs=activations)


def _card(subject: Subject, method: str, parts: list[str], parameters: int) -> AdapterCard:
    options, base = subject.options, parts_of(subject.pipe)
    return AdapterCard(
        method=method,
        model=options.model,
        fingerprints={part: fingerprint(base[part]) for part in parts},
        trigger=subject.trigger,
        prompt=options.prompt,
        resolution=subject.size,
        steps=0,
        seed=options.seed,
        parameters=parameters,
        version=__version__,
    )


def _step_module(subject: Subject, parts: dict[str, nn.Module], rules: StepRules) -> DreamboothStep:
    """The trained parts as one module that returns the loss."""
    options = subject.options
    unet = parts["unet"] if "unet" in parts else parts_of(subject.pipe)["unet"]
    encoders = {part: module for part, module in parts.items() if part != "unet"}
    step = DreamboothStep(unet, encoders, subject.text, subject.process)
    if options.gradient_checkpointing:
        for part, module in parts.items():
            if part == "unet":
                module.enable_gradient_checkpointing()  # type: ignore[operator]
            else:
                module.gradient_checkpointing_enable()  # type: ignore[operator]

    def with_penalty(module: nn.Module, inputs: object, loss: Tensor) -> Tensor:
        """Add the gradient of the method's penalty, but not its value: logs compare losses."""
        penalty = rules.penalty()
        return loss if penalty is None else loss + (penalty - penalty.detach())

    # A hook, so that the penalty is part of the forward pass that data parallelism watches.
    step.register_forward_hook(with_penalty)
    return step.train()


def prepare_accelerator(mixed_precision: str) -> Accelerator:
    """An accelerator for one trainee."""
    # The text encoders' pooled and penultimate outputs leave single layers without a gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[unused])
