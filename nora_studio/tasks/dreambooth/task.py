"""One subject's training, put together: adapters on a shared base, samples, and the final proof."""

import contextlib
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from nora_studio import __version__
from nora_studio.adapters.files.adapter_folders import load_weights, write_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.steps import StepRules, step_rules
from nora_studio.adapters.new_tokens import TOKENIZERS
from nora_studio.nora.outer_cache import cached_outer_factors
from nora_studio.options.part_settings import PartSettings
from nora_studio.options.recommended import first_rate
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import parts_of, share_weights, used_targets
from nora_studio.tasks.dreambooth.freeze_text_encoders import settle_text_encoders
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.token_training import TokenRows
from nora_studio.trainer.build import (
    adapter_spec,
    average_of,
    main_first_where_kept,
    optimizer_and_schedule,
    prepared,
    shared_digests,
    trained_parameters,
    with_penalty,
)
from nora_studio.trainer.trainee import Trainee


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
    digests = shared_digests({part: base[part] for part in settings})
    parts = _adapted_parts(subject, method, settings, accelerator.device)
    rules = step_rules(method, parts, options.seed)
    encoders = _encoders(subject, parts)
    step = _step_module(subject, parts, encoders, rules)
    tokens = TokenRows.of(subject.tokens, encoders)
    optimizer, schedule = optimizer_and_schedule(
        options,
        options,
        method,
        parts,
        {part: values.learning_rate for part, values in settings.items()},
        first_rate(method, options.model),
        tokens.groups(options.token_rate or 0.0),
    )
    model, optimizer = prepared(accelerator, step, optimizer, subject.sharding)
    trained = trained_parameters(parts) + tokens.parameters
    count = sum(parameter.numel() for parameter in trained)
    card = _card(subject, method, prints, digests, count)

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
        average=average_of(options, trained, optimizer),
        adapted=parts,
        before_step=partial(settle_text_encoders, until=options.text_encoder_steps),
    )


def _adapted_parts(
    subject: Subject, method: str, settings: dict[str, PartSettings], device: torch.device
) -> dict[str, nn.Module]:
    """Trees over the shared base with the method's adapters; with a base in shards, its own."""
    options, base = subject.options, parts_of(subject.pipe)
    parts: dict[str, nn.Module] = {}
    with main_first_where_kept(options.cache):
        for part, values in settings.items():
            # Whoever else held the base's own tensors would keep all of what is to be sharded.
            module = base[part] if subject.sharding else share_weights(base[part])
            activations = subject.activations.get(part)
            spec = adapter_spec(options, method, values, options.steps, activations)
            with cached_outer_factors() if options.cache else contextlib.nullcontext():
                attach(module, used_targets(part, module, options.targets or "attention"), spec)
            parts[part] = module
    if subject.sharding is not None:
        for module in {"unet": base["unet"], **parts}.values():
            subject.sharding.shard(module, device)
    return parts


def _card(
    subject: Subject,
    method: str,
    prints: dict[str, list[float]],
    digests: dict[str, str],
    parameters: int,
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
        digests=digests,
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
    with_penalty(step, rules)
    return step.train()
