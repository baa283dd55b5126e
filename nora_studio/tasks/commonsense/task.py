"""A training on questions, put together: what twins share, and each of them."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nora_studio import __version__
from nora_studio.adapters.files.adapter_folders import load_adapter, load_weights, write_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.steps import step_rules
from nora_studio.errors import StudioError
from nora_studio.nora.outer_cache import cached_outer_factors
from nora_studio.options.part_settings import PartSettings, resolve
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import share_weights
from nora_studio.tasks.commonsense.config import PARTS, CommonsenseOptions
from nora_studio.tasks.commonsense.examples import Batch, Example, collate
from nora_studio.tasks.commonsense.recommended import recommended
from nora_studio.tasks.commonsense.step import AnswerStep
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
from nora_studio.trainer.saving import set_back
from nora_studio.trainer.sharding import Sharding
from nora_studio.trainer.trainee import Trainee

(PART,) = PARTS
TASK = "commonsense"
MEASURED_ROWS = 16
"""Validation questions in a batch."""


@dataclass(frozen=True)
class Task:
    """What every twin shares: options, the frozen base and the validation questions."""

    options: CommonsenseOptions
    decoder: nn.Module
    validation: Sequence[Batch]
    """Batches, always the same."""
    sharding: Sharding | None = None


def validation_batches(examples: Sequence[Example], pad: int) -> list[Batch]:
    """Batches of the validation questions, shortest first, so that little is padded."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    starts = range(0, len(ordered), MEASURED_ROWS)
    return [collate(ordered[start : start + MEASURED_ROWS], pad) for start in starts]


def settings_of(options: CommonsenseOptions, method: str) -> PartSettings:
    """A method's rank, scale and rate, as asked for or recommended."""
    return resolve(options, method, PARTS, recommended(method, options.model))[PART]


def build_trainee(
    task: Task, method: str, settings: PartSettings, run: Run, accelerator: Accelerator
) -> Trainee:
    """Attach one method to a tree of its own over the shared base, with optimizer and schedule.

    Raises:
        StudioError: a rank does not fit, or a target matches nothing.
    """
    options = task.options
    torch.manual_seed(options.seed)  # Adapter initialisation.
    prints, digests = fingerprint(task.decoder), shared_digests({PART: task.decoder})
    decoder: Any = task.decoder if task.sharding else share_weights(task.decoder)
    with main_first_where_kept(options.cache):
        spec = adapter_spec(options, method, settings, options.steps)
        with cached_outer_factors() if options.cache else contextlib.nullcontext():
            attach(decoder, list(options.targets), spec)
    if task.sharding is not None:
        task.sharding.shard(decoder, accelerator.device)
    if options.gradient_checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
    parts: dict[str, nn.Module] = {PART: decoder}
    rules = step_rules(method, parts, options.seed)
    step = AnswerStep(decoder)
    with_penalty(step, rules)
    first_rate = recommended(method, options.model).rate / 10
    optimizer, schedule = optimizer_and_schedule(
        options, options, method, parts, {PART: settings.learning_rate}, first_rate
    )
    model, optimizer = prepared(accelerator, step.train(), optimizer, task.sharding)
    trained = trained_parameters(parts)
    card = AdapterCard(
        method=method,
        model=options.model,
        fingerprints={PART: prints},
        trigger="",
        prompt="",
        resolution=0,
        steps=0,
        seed=options.seed,
        parameters=sum(parameter.numel() for parameter in trained),
        version=__version__,
        digests=digests,
        task=TASK,
    )
    return Trainee(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=trained,
        write_adapter=lambda folder, step: write_adapter(folder, parts, card.at(step)),
        load_adapter=lambda folder: load_weights(folder, parts, card),
        rules=rules,
        keeps_best=bool(options.keep_best),
        average=average_of(options, trained, optimizer),
        adapted=parts,
        rows="examples",
    )


@torch.no_grad()
def measure(task: Task, trainee: Trainee) -> float:
    """A trainee's mean loss over the validation questions' learned tokens, dropout off."""
    module: AnswerStep = trainee.accelerator.unwrap_model(trainee.model)
    was_training = module.training
    module.eval()
    device = trainee.accelerator.device
    total, tokens = torch.zeros((), device=device), 0.0
    try:
        with trainee.accelerator.autocast(), trainee.served():
            for batch in task.validation:
                count = len(batch["share"]) / float(batch["share"][0])  # learned tokens
                loss = module(**{name: t.to(device) for name, t in batch.items()})
                total, tokens = total + loss * count, tokens + count
    finally:
        module.train(was_training)
    return (total / tokens).item()


@torch.no_grad()
def last_logits(task: Task, decoder: nn.Module, accelerator: Accelerator) -> Tensor:
    """What a decoder says after the shortest validation questions, float32 on the CPU."""
    batch = {name: t.to(accelerator.device) for name, t in task.validation[0].items()}
    names = ("input_ids", "attention_mask", "position_ids")
    was_training = decoder.training
    decoder.eval()
    try:
        with accelerator.autocast():
            logits = decoder(**{name: batch[name] for name in names}, use_cache=False).logits
    finally:
        decoder.train(was_training)
    return logits[:, -1].float().cpu()


def finish(
    task: Task, trainee: Trainee, last: int, reasons: Mapping[str, str] | None = None
) -> str | None:
    """Save the final adapter and prove it: loaded anew on the base, it must say the same.

    Called by the main process alone, or by all where the base is in shards.

    Args:
        last: The last step that was trained.
        reasons: Why that is before the plan's, if it is, by the trainees' labels.

    Raises:
        StudioError: the proof failed; the adapter is kept for inspection, the run marked failed.
    """
    best = trainee.best if task.options.final == "best" else None
    # The main process alone knows it.
    step = int(processes.largest(0 if best is None else best.step)) or last
    if step != last:
        set_back(trainee, step)
    facts: dict[str, Any] = {**trainee.best_facts, "adapter_step": step}
    if reasons and trainee.label in reasons:
        facts["ended"] = reasons[trainee.label]

    def save() -> str:
        with trainee.run.saving_adapter() as fresh, trainee.served():
            trainee.write_adapter(fresh, step)
        steps = task.options.steps or 0
        if not task.validation or task.sharding is not None:
            trainee.run.set_status("finished", last, steps, **facts)
            return f"{trainee.run.adapter}: saved as of step {step}."
        with trainee.served():
            apart, moved = _proof(task, trainee)
        # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
        tolerance = 0.0 if trainee.accelerator.device.type == "cpu" else 0.05 * max(1.0, moved)
        if apart > tolerance or moved == 0:
            problem = f"the reloaded adapter's logits are off by {apart:.3g}"
            problem = problem if moved else "the adapter changes nothing"
            trainee.run.set_status("failed", last, steps, error=problem, **facts)
            raise StudioError(
                f"{trainee.label}: {problem}. {trainee.run.adapter} is kept for inspection."
            )
        trainee.run.set_status("finished", last, steps, change=round(moved, 3), **facts)
        which = "" if step == last else f" as of step {step}, the best"
        return (
            f"{trainee.run.adapter}{which}: proven by a fresh base; its logits moved by up to "
            f"{moved:.2f}."
        )

    return processes.on_main(save)


def _proof(task: Task, trainee: Trainee) -> tuple[float, float]:
    """How far the saved adapter's logits are from the trainer's, and those from the base's."""
    accelerator, module = trainee.accelerator, trainee.accelerator.unwrap_model(trainee.model)
    fresh = share_weights(task.decoder)
    load_adapter(trainee.run.adapter, {PART: fresh})
    said, again, bare = (
        last_logits(task, decoder, accelerator) for decoder in (module.decoder, fresh, task.decoder)
    )
    return float((said - again).abs().max()), float((said - bare).abs().max())
