"""One subject's training, put together: adapters on a shared base, samples, and the final proof."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from nora_studio import __version__, processes
from nora_studio.averages import ExponentialAverage, ScheduleFreeAverage, WeightAverage
from nora_studio.config import DreamboothOptions
from nora_studio.dreambooth import DreamboothStep
from nora_studio.files import load_weights, write_adapter
from nora_studio.fingerprints import fingerprint
from nora_studio.formats.card import AdapterCard
from nora_studio.methods.attachment import adapter_parameters, attach
from nora_studio.methods.optimizers import LORA_PLUS_RATIO, make_optimizer
from nora_studio.methods.spec import AdapterSpec
from nora_studio.methods.steps import StepRules, step_rules
from nora_studio.methods.table import METHODS
from nora_studio.models import (
    parts_of,
    share_weights,
    used_targets,
)
from nora_studio.new_tokens import TOKENIZERS
from nora_studio.nora.outer_cache import cached_outer_factors
from nora_studio.part_settings import PartSettings
from nora_studio.recommended import first_rate
from nora_studio.runs import Run
from nora_studio.schedules import learning_rate_schedule
from nora_studio.subject import Subject
from nora_studio.token_training import TokenRows
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
    prints = {part: fingerprint(base[part]) for part in settings}
    parts = _adapted_parts(subject, method, settings, accelerator.device)
    rules = step_rules(method, parts, options.seed)
    encoders = _encoders(subject, parts)
    step = _step_module(subject, parts, encoders, rules)
    tokens = TokenRows.of(subject.tokens, encoders)
    optimizer, schedule = _optimizer_and_schedule(options, method, parts, settings, tokens)
    model, optimizer = _prepared(subject, accelerator, step, optimizer)
    trained = [p for module in parts.values() for p in adapter_parameters(module).values()]
    trained += tokens.parameters
    card = _card(subject, method, prints, sum(parameter.numel() for parameter in trained))

    def load(folder: Path) -> None:
        load_weights(folder, parts, card)
        tokens.load(folder)

    return Trainee(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=trained,
        write_adapter=lambda folder, step: write_adapter(
            folder, parts, card.at(step), tokens.now()
        ),
        load_adapter=load,
        rules=rules,
        keeps_best=bool(options.keep_best),
        average=_average(options, trained, optimizer),
        text_encoder_steps=options.text_encoder_steps,
    )


def _optimizer_and_schedule(
    options: DreamboothOptions,
    method: str,
    parts: dict[str, nn.Module],
    settings: dict[str, PartSettings],
    tokens: TokenRows,
) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = make_optimizer(
        method,
        parts,
        {part: values.learning_rate for part, values in settings.items()},
        options.weight_decay,
        options.lora_plus_ratio or LORA_PLUS_RATIO,
        options.optimizer,
        options.warmup_steps,
        first_rate(method, options.model),
        tokens.groups(options.token_rate or 0.0),
    )
    schedule = learning_rate_schedule(
        options.schedule or "cosine",
        optimizer,
        options.steps or 0,
        0 if options.optimizer == "schedule-free" else options.warmup_steps,
        options.schedule_cycles,
        options.schedule_power,
    )
    return optimizer, schedule


def _prepared(
    subject: Subject, accelerator: Accelerator, step: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, Any]:
    """Step and optimizer as the processes and the precision want them."""
    if subject.sharding is None:
        model, prepared = accelerator.prepare(step, optimizer)
    else:
        model = subject.sharding.prepare(accelerator, step, _data_parallel())
        prepared = accelerator.prepare_optimizer(optimizer)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Outer factors and prompts are frozen: they were sent once and need not before every step.
        model.broadcast_buffers = False
    return model, prepared


def _average(
    options: DreamboothOptions, trained: list[nn.Parameter], optimizer: Any
) -> WeightAverage | None:
    if options.optimizer == "schedule-free":
        return ScheduleFreeAverage(trained, optimizer)
    return None if options.ema is None else ExponentialAverage(trained, options.ema)


def _adapted_parts(
    subject: Subject, method: str, settings: dict[str, PartSettings], device: torch.device
) -> dict[str, nn.Module]:
    """Trees over the shared base with the method's adapters; with a base in shards, its own."""
    options, base = subject.options, parts_of(subject.pipe)
    parts: dict[str, nn.Module] = {}
    # The main process finds the outer factors; where they are kept on disk the others read them.
    with processes.main_first() if options.cache else contextlib.nullcontext():
        for part, values in settings.items():
            # Whoever else held the base's own tensors would keep all of what is to be sharded.
            module = base[part] if subject.sharding else share_weights(base[part])
            spec = _adapter_spec(options, method, values, subject.activations.get(part))
            with cached_outer_factors() if options.cache else contextlib.nullcontext():
                attach(module, used_targets(part, module, options.targets or "attention"), spec)
            parts[part] = module
    if subject.sharding is not None:
        for module in {"unet": base["unet"], **parts}.values():
            subject.sharding.shard(module, device)
    return parts


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


def _card(
    subject: Subject, method: str, prints: dict[str, list[float]], parameters: int
) -> AdapterCard:
    options = subject.options
    return AdapterCard(
        method=method,
        model=options.model,
        fingerprints=prints,
        trigger=subject.trigger,
        prompt=options.prompt,
        resolution=subject.size,
        steps=0,
        seed=options.seed,
        parameters=parameters,
        version=__version__,
        tokens=list(subject.tokens.words) if subject.tokens else [],
    )


def _encoders(subject: Subject, parts: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The text encoders that every step runs: the adapted ones; with new tokens the others too."""
    base = parts_of(subject.pipe)
    frozen = [part for part in TOKENIZERS if part not in parts] if subject.tokens else []
    adapted = {part: module for part, module in parts.items() if part != "unet"}
    return adapted | {part: share_weights(base[part]) for part in frozen}


def _step_module(
    subject: Subject, parts: dict[str, nn.Module], encoders: dict[str, nn.Module], rules: StepRules
) -> DreamboothStep:
    """The trained parts as one module that returns the loss."""
    options = subject.options
    unet = parts["unet"] if "unet" in parts else parts_of(subject.pipe)["unet"]
    step = DreamboothStep(unet, encoders, subject.text, subject.process)
    if options.gradient_checkpointing:
        for part, module in (parts | encoders).items():
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
    return Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[_data_parallel()])


def _data_parallel() -> DistributedDataParallelKwargs:
    # The text encoders' pooled and penultimate outputs leave single layers without a gradient.
    return DistributedDataParallelKwargs(find_unused_parameters=True)
