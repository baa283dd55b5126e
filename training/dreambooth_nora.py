"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import torch

from nora_studio.activations import first_batch, record_activations
from nora_studio.base import load_base
from nora_studio.config import DreamboothOptions
from nora_studio.defaults import with_recommended
from nora_studio.errors import StudioError, run_entry
from nora_studio.fitting import fitted
from nora_studio.held_out import measure
from nora_studio.loop import Plan, train
from nora_studio.models import choose_dtype, wake
from nora_studio.options_file import options_given, parse_options, to_toml
from nora_studio.out_of_memory import told_in_one_line
from nora_studio.part_settings import part_settings
from nora_studio.personalise import build_trainee, prepare_accelerator
from nora_studio.photo_set import PhotoSet
from nora_studio.preflight import rehearsal, rehearse
from nora_studio.preparation import prepare
from nora_studio.proof import finish
from nora_studio.runs import Run, common_checkpoint
from nora_studio.samples import draw_base, draw_sample
from nora_studio.saving import restore
from nora_studio.stop import StopRequest
from nora_studio.trainee import Trainee

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def main() -> int:
    asked = with_recommended(parse_options())
    if asked.fit is not None and not asked.preflight:
        asked = fitted(asked, options_given(), Path(__file__), print)
    place = rehearsal(asked) if asked.preflight else contextlib.nullcontext(asked)
    with told_in_one_line(asked), place as options:
        return personalise(options, asked)


def personalise(options: DreamboothOptions, asked: DreamboothOptions) -> int:
    """Train; in a preflight only measure, `asked` then naming the folder that was asked for."""
    photos = PhotoSet.find(options)  # Before any model loads: mistakes are here.
    settings = {method: part_settings(options, method) for method in options.methods}
    dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print
    runs = {method: find_run(options, method) for method in options.methods}

    for line in photos.warnings:
        say(line)
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    pipe = load_base(options, dtype, accelerator.device)
    # Only what every step needs; the VAE and frozen text encoders come to the device when called.
    trained = {part for parts in settings.values() for part in parts}
    wake(pipe, {"unet", *trained}, accelerator.device)
    with accelerator.main_process_first():  # It draws and encodes; the others read what it kept.
        prepared = prepare(options, pipe, photos, say)
    subject, draws = prepared.subject, prepared.draws

    if options.outer == "activation":
        say("Recording activations on the first batch")
        batch = first_batch(draws)
        activations = record_activations(
            pipe, subject.text, subject.process, list(settings["nora"]), batch
        )
        subject = replace(subject, activations=activations)

    trainees: list[Trainee] = []
    for method in options.methods:
        own = prepare_accelerator(MIXED[dtype])
        trainee = build_trainee(subject, method, settings[method], runs[method], own)
        trainees.append(trainee)
        total = sum(parameter.numel() for parameter in trainee.parameters)
        say(f"{method}: {total:,} trained parameters -> {runs[method].folder}")

    start = 0
    accelerator.wait_for_everyone()  # Every process has looked for old runs by now.
    if accelerator.is_main_process and not options.resume:
        for run in runs.values():
            Run.create(run.folder, to_toml(options))
    if options.resume:
        start = common_checkpoint(list(runs.values()))
        restore(trainees, draws, start)
        say(f"Going on after step {start} of {options.steps}")
    elif accelerator.is_main_process:
        draw_base(subject, trainees)
    plan = Plan(
        steps=options.steps or 0,
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        sample_every=options.sample_every,
        evaluate_every=options.evaluate_every,
        max_gradient_norm=options.max_gradient_norm,
    )

    def sample(trainee: Trainee, step: int) -> None:
        draw_sample(subject, trainee, step)

    def evaluate(trainee: Trainee) -> dict[str, float]:
        fixed = prepared.fixed
        return {fixed.name: measure(fixed, trainee.model, trainee.accelerator)} if fixed else {}

    if accelerator.is_main_process and not options.resume and options.evaluate_every:
        for trainee in trainees:  # Where the curve begins: every method starts at the base.
            trainee.run.log(0, **evaluate(trainee))
    if options.preflight:
        return rehearse(asked, subject, draws, trainees, plan, sample, evaluate)
    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, sample, evaluate, start)
    if not done and stop.signal is not None:
        say(f"Stopped by {stop.signal.name}. Go on with the same command and --resume.")
        return 128 + stop.signal
    if accelerator.is_main_process:
        failures = []
        while trainees:
            # One at a time, so that the proof's fresh pipeline finds room; each has its chance.
            try:
                print(finish(subject, trainees.pop(0)))
            except StudioError as error:
                failures.append(str(error))
        if failures:
            raise StudioError(" ".join(failures))
    accelerator.end_training()
    return 0


def find_run(options: DreamboothOptions, method: str) -> Run:
    """A method's run: a new name, made only once all input is known good; or the one to resume."""
    folder = options.output_dir / f"{options.run_name}-{method}"
    if options.resume:
        run = Run.open(folder)
        run.check_config(to_toml(options))
        return run
    run = Run(folder)
    run.check_new()
    return run


if __name__ == "__main__":
    sys.exit(run_entry(main))
