"""DreamBooth as a task: one subject's photos, SDXL's adapted parts, verified by previews."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from tqdm import tqdm
from typing_extensions import override

from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.adapters.new_tokens import TOKENIZERS
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import options_given, parse_options
from nora_studio.options.part_settings import parts_along_inputs
from nora_studio.options.recommended import first_rate
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAIN, script_path
from nora_studio.sdxl.models import parts_of, share_weights, to_device, used_targets
from nora_studio.tasks.dreambooth.activations import first_batch, record_activations
from nora_studio.tasks.dreambooth.base import load_base_of
from nora_studio.tasks.dreambooth.fitting import fitted
from nora_studio.tasks.dreambooth.freeze_text_encoders import FreezeTextEncoders
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.preflight import preflight_folder, run_preflight
from nora_studio.tasks.dreambooth.preflight_report import PreflightRequest
from nora_studio.tasks.dreambooth.preview_log import PreviewLog, load_judge
from nora_studio.tasks.dreambooth.settings import DreamboothSettings, resolve
from nora_studio.tasks.dreambooth.setup import Prepared, prepare
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.token_training import TokenRows
from nora_studio.tasks.dreambooth.validation import measure
from nora_studio.tasks.dreambooth.verification import verify
from nora_studio.trainer.build import adapt, learner
from nora_studio.trainer.task import Learner, Task, Verification
from nora_studio.trainer.train_state import BatchSource, TrainState


class DreamboothTask(Task):
    """Personalise SDXL from a folder of photos."""

    settings: DreamboothSettings
    asked: DreamboothOptions
    """The options as given; a preflight trains in another folder."""
    photos: PhotoSet
    prepared: Prepared
    previews: PreviewLog

    @override
    def read_options(self) -> DreamboothOptions:
        return with_recommended(parse_options())

    @override
    @contextlib.contextmanager
    def around(self, options: DreamboothOptions) -> Iterator[DreamboothOptions]:
        if options.fit is not None and not options.preflight:
            options = fitted(options, options_given(), script_path(TRAIN), print)
        self.asked = options
        with (
            preflight_folder(options) if options.preflight else contextlib.nullcontext(options)
        ) as own:
            yield own

    @override
    def resolve(self, options: DreamboothOptions) -> DreamboothSettings:
        return resolve(options)

    @override
    def memory_saving_tips(self) -> Sequence[str]:
        base = self.settings.base
        return [
            "--fit GB, which finds settings that fit into a limit",
            *([] if base.gradient_checkpointing else ["--gradient-checkpointing"]),
            *(["a smaller --batch-size"] if self.trainer.learning.batch_size > 1 else []),
            *(["--base-bits 8 or 4"] if base.bits == 16 else []),
            "a smaller --resolution",
        ]

    @override
    def read_data(self, runs: dict[str, Run]) -> Mapping[str, str]:
        self.runs, settings = runs, self.settings
        prompt, resolution = settings.subject.prompt, settings.base.resolution
        self.photos = PhotoSet.find(settings.photos, prompt, resolution)
        self.record = self.photos.record()
        return self.record

    @override
    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        settings, say, device = self.settings, accelerator.print, accelerator.device
        for line in self.photos.warnings:
            say(line)
        say(f"Loading {settings.base.model} ({dtype}, {device})")
        pipe = load_base_of(settings.base, dtype, device)
        # Only what every step needs; the VAE and frozen text encoders are moved to the device for
        # each call.
        trained = {part for parts in self.trainer.parts.values() for part in parts}
        if settings.tokens.count:
            trained |= set(TOKENIZERS)
        to_device(pipe, {"unet", *trained}, device)
        with processes.main_first():  # It generates and encodes; the others read the cache.
            prepared = prepare(
                settings, pipe, self.photos, say, stand_in_class_images=self.asked.preflight
            )
        subject = replace(prepared.subject, sharding=self.sharding)
        judge = processes.on_main(partial(load_judge, subject, self.photos))
        if settings.trainer.tuning.outer == "activation":
            say("Recording activations on the first batch")
            batch = first_batch(prepared.batches)
            parts = parts_along_inputs(self.trainer.parts)
            activations = record_activations(pipe, subject.text, subject.process, parts, batch)
            subject = replace(subject, activations=activations)
        self.prepared = replace(prepared, subject=subject)
        self.previews = PreviewLog(subject, self.runs, judge, tqdm.write)

    @override
    def batches(self) -> BatchSource:
        return self.prepared.batches

    @override
    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        return build(self.prepared.subject, method, accelerator.device)

    @override
    def check_data(self) -> None:
        self.photos.check_record(self.record)

    @override
    def start(self, states: list[TrainState], step: int) -> None:
        if step:
            self.previews.catch_up(states, step, self.trainer.plan.sample_every)
        else:
            self.previews.show_base(states)

    @override
    def preflight(
        self,
        states: list[TrainState],
        evaluate: Callable[[TrainState], dict[str, float]],
    ) -> int | None:
        if not self.asked.preflight:
            return None
        asked = PreflightRequest(resolve(self.asked), self.asked.fit, self.asked.preflight_out)
        subject, batches = self.prepared.subject, self.prepared.batches
        return run_preflight(asked, subject, batches, states, self.previews.show, evaluate)

    @override
    def sample(self, state: TrainState, step: int) -> None:
        self.previews.show(state, step)

    @override
    def evaluate(self, state: TrainState) -> dict[str, float]:
        fixed = self.prepared.fixed
        if fixed is None:
            return {}
        return {fixed.name: measure(fixed, state.model, state.accelerator)}

    @override
    def show_last(self, state: TrainState, step: int) -> None:
        self.previews.generate(state, step)

    @override
    def outputs(self, state: TrainState, step: int) -> list[Image.Image]:
        return self.previews.generate(state, step)

    @override
    def finish(
        self, run: Run, method: str, outputs: list[Image.Image], accelerator: Accelerator
    ) -> Verification | None:
        return verify(self.prepared.subject, run, outputs, accelerator.device)


def build(subject: Subject, method: str, device: torch.device) -> Learner:
    """Attach a method to SDXL's parts, and build the step that trains them.

    Args:
        device: Device of a sharded base.
    """
    settings, sharding, base = subject.settings, subject.sharding, parts_of(subject.pipe)
    trainer, sizes = settings.trainer, settings.trainer.parts[method]
    # Shared weights would keep the whole base in memory when it is sharded.
    trees = {part: base[part] if sharding else share_weights(base[part]) for part in sizes}
    adapted = adapt(
        trainer,
        method,
        sizes,
        base,
        trees,
        lambda part, module: used_targets(part, module, settings.base.targets),
        activations=subject.activations,
    )
    if sharding is not None:
        for module in {"unet": base["unet"], **adapted.parts}.values():
            sharding.shard(module, device)
    encoders = _encoders(subject, adapted.parts)
    step = _step_module(subject, adapted.parts, encoders, adapted.rules)
    until = settings.subject.text_encoder_steps
    return learner(
        trainer,
        adapted,
        step,
        {
            "model": settings.base.model,
            "trigger": subject.trigger,
            "prompt": settings.subject.prompt,
            "resolution": subject.size,
            "tokens": list(subject.tokens.words) if subject.tokens else [],
        },
        first_rate(method, settings.base.model),
        extra=TokenRows.of(subject.tokens, encoders, settings.tokens.rate),
        recomputes=settings.base.gradient_checkpointing,
        callbacks=[lambda state: FreezeTextEncoders(state, until)] if until else [],
    )


def _encoders(subject: Subject, parts: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Return the text encoders that every step runs: the adapted ones, or all with new tokens."""
    base = parts_of(subject.pipe)
    frozen = [part for part in TOKENIZERS if part not in parts] if subject.tokens else []
    adapted = {part: module for part, module in parts.items() if part != "unet"}
    return adapted | {part: share_weights(base[part]) for part in frozen}


def _step_module(
    subject: Subject, parts: dict[str, nn.Module], encoders: dict[str, nn.Module], rules: StepRules
) -> DreamboothStep:
    """Combine the trained parts into one module that returns the loss."""
    unet: Any = parts["unet"] if "unet" in parts else parts_of(subject.pipe)["unet"]
    step = DreamboothStep(unet, encoders, subject.text, subject.process, rules)
    if subject.settings.base.gradient_checkpointing:
        for part, module in (parts | encoders).items():
            if part == "unet":
                module.enable_gradient_checkpointing()  # type: ignore[operator]
            else:
                module.gradient_checkpointing_enable()  # type: ignore[operator]
    return step.train()
