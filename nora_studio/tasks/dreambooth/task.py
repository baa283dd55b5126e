"""DreamBooth as a task: one subject's photos, SDXL's adapted parts, pictures as the proof."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from tqdm import tqdm

from nora_studio.adapters.methods.steps import StepRules
from nora_studio.adapters.new_tokens import TOKENIZERS
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import options_given, parse_options
from nora_studio.options.part_settings import PartSettings, part_settings, parts_along_inputs
from nora_studio.options.recommended import first_rate
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import TRAIN, script_path
from nora_studio.sdxl.base import load_base
from nora_studio.sdxl.models import parts_of, share_weights, to_device, used_targets
from nora_studio.tasks.dreambooth.activations import first_batch, record_activations
from nora_studio.tasks.dreambooth.fitting import fitted
from nora_studio.tasks.dreambooth.freeze_text_encoders import FreezeTextEncoders
from nora_studio.tasks.dreambooth.gallery import Gallery, load_judge
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.preflight import rehearsal, rehearse
from nora_studio.tasks.dreambooth.setup import Prepared, prepare
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.subject import Subject
from nora_studio.tasks.dreambooth.token_training import TokenRows
from nora_studio.tasks.dreambooth.validation import measure
from nora_studio.tasks.dreambooth.verification import verify
from nora_studio.trainer.build import adapt, learner
from nora_studio.trainer.loop import Plan
from nora_studio.trainer.out_of_memory import told_in_one_line
from nora_studio.trainer.task import Learner, Proof, Task
from nora_studio.trainer.trainee import Draws, Trainee


class DreamboothTask(Task):
    """Personalise SDXL from a folder of photos."""

    options: DreamboothOptions
    asked: DreamboothOptions
    """As they were given; a rehearsal trains in another folder."""
    photos: PhotoSet
    prepared: Prepared
    gallery: Gallery

    def read_options(self) -> DreamboothOptions:
        return with_recommended(parse_options())

    @contextlib.contextmanager
    def around(self, options: DreamboothOptions) -> Iterator[DreamboothOptions]:
        if options.fit is not None and not options.preflight:
            options = fitted(options, options_given(), script_path(TRAIN), print)
        self.asked = options
        place = rehearsal(options) if options.preflight else contextlib.nullcontext(options)
        with told_in_one_line(options), place as own:
            yield own

    def find_data(self, options: DreamboothOptions, runs: dict[str, Run]) -> Mapping[str, str]:
        self.runs = runs
        self.photos = PhotoSet.find(options)
        self.settings = {method: part_settings(options, method) for method in options.methods}
        self.record = self.photos.record()
        return self.record

    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        options, say, device = self.options, accelerator.print, accelerator.device
        for line in self.photos.warnings:
            say(line)
        say(f"Loading {options.model} ({dtype}, {device})")
        pipe = load_base(options, dtype, device)
        # Only what every step needs; the VAE and frozen text encoders come to the device when
        # called.
        trained = {part for parts in self.settings.values() for part in parts}
        if options.new_tokens:
            trained |= set(TOKENIZERS)
        to_device(pipe, {"unet", *trained}, device)
        with processes.main_first():  # It draws and encodes; the others read what it kept.
            prepared = prepare(options, pipe, self.photos, say)
        subject = replace(prepared.subject, sharding=self.sharding)
        judge = processes.on_main(partial(load_judge, subject, self.photos))
        if options.outer == "activation":
            say("Recording activations on the first batch")
            batch = first_batch(prepared.draws)
            parts = parts_along_inputs(self.settings)
            activations = record_activations(pipe, subject.text, subject.process, parts, batch)
            subject = replace(subject, activations=activations)
        self.prepared = replace(prepared, subject=subject)
        self.gallery = Gallery(subject, self.runs, judge, tqdm.write)

    def batches(self) -> Draws:
        return self.prepared.draws

    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        return build(self.prepared.subject, method, self.settings[method], accelerator.device)

    def check_data(self) -> None:
        self.photos.check_record(self.record)

    def start(self, trainees: list[Trainee], step: int) -> None:
        if step:
            self.gallery.catch_up(trainees, step, self.options.sample_every)
        else:
            self.gallery.show_base(trainees)

    def rehearse(
        self,
        trainees: list[Trainee],
        plan: Plan,
        evaluate: Callable[[Trainee], dict[str, float]],
    ) -> int | None:
        if not self.options.preflight:
            return None
        subject, draws = self.prepared.subject, self.prepared.draws
        return rehearse(self.asked, subject, draws, trainees, plan, self.gallery.show, evaluate)

    def sample(self, trainee: Trainee, step: int) -> None:
        self.gallery.show(trainee, step)

    def evaluate(self, trainee: Trainee) -> dict[str, float]:
        fixed = self.prepared.fixed
        if fixed is None:
            return {}
        return {fixed.name: measure(fixed, trainee.model, trainee.accelerator)}

    def show_last(self, trainee: Trainee, step: int) -> None:
        self.gallery.draw(trainee, step)

    def answers(self, trainee: Trainee, step: int) -> list[Image.Image]:
        return self.gallery.draw(trainee, step)

    def finish(
        self, run: Run, method: str, answers: list[Image.Image], accelerator: Accelerator
    ) -> Proof | None:
        return verify(self.prepared.subject, run, answers, accelerator.device)


def build(
    subject: Subject, method: str, settings: dict[str, PartSettings], device: torch.device
) -> Learner:
    """Put one method on SDXL's parts, with the step that trains them.

    Args:
        settings: Rank, scale and rate of each adapted part.
        device: Where a base in shards goes.
    """
    options, sharding, base = subject.options, subject.sharding, parts_of(subject.pipe)
    # Whoever else held the base's own tensors would keep all of what is to be sharded.
    trees = {part: base[part] if sharding else share_weights(base[part]) for part in settings}
    adapted = adapt(
        options,
        method,
        settings,
        base,
        trees,
        lambda part, module: used_targets(part, module, options.targets or "attention"),
        activations=subject.activations,
        cache=options.cache,
    )
    if sharding is not None:
        for module in {"unet": base["unet"], **adapted.parts}.values():
            sharding.shard(module, device)
    encoders = _encoders(subject, adapted.parts)
    step = _step_module(subject, adapted.parts, encoders, adapted.rules)
    until = options.text_encoder_steps
    return learner(
        options,
        adapted,
        step,
        {
            "model": options.model,
            "trigger": subject.trigger,
            "prompt": options.prompt,
            "resolution": subject.size,
            "tokens": list(subject.tokens.words) if subject.tokens else [],
        },
        first_rate(method, options.model),
        extra=TokenRows.of(subject.tokens, encoders, options.token_rate or 0.0),
        callbacks=[] if until is None else [lambda trainee: FreezeTextEncoders(trainee, until)],
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
    unet: Any = parts["unet"] if "unet" in parts else parts_of(subject.pipe)["unet"]
    step = DreamboothStep(unet, encoders, subject.text, subject.process, rules)
    if subject.options.gradient_checkpointing:
        for part, module in (parts | encoders).items():
            if part == "unet":
                module.enable_gradient_checkpointing()  # type: ignore[operator]
            else:
                module.gradient_checkpointing_enable()  # type: ignore[operator]
    return step.train()
