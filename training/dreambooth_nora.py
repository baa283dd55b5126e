"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import signal
import sys
from dataclasses import replace

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Imports take seconds and have begun nothing: Ctrl-C just ends them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch

from nora_studio.activations import first_batch, record_activations
from nora_studio.attempt import Attempt
from nora_studio.defaults import with_recommended
from nora_studio.errors import StudioError
from nora_studio.held_out import measure
from nora_studio.loop import Plan, train
from nora_studio.models import choose_dtype, load_sdxl, wake
from nora_studio.options_file import parse_options, to_toml
from nora_studio.part_settings import part_settings
from nora_studio.personalise import build_trainee, prepare_accelerator
from nora_studio.photo_set import PhotoSet
from nora_studio.preparation import prepare
from nora_studio.proof import finish
from nora_studio.runs import Run, common_checkpoint
from nora_studio.samples import draw_base, draw_missing, draw_sample
from nora_studio.saving import restore
from nora_studio.stop import StopRequest
from nora_studio.trainee import Trainee

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def main(attempt: Attempt) -> int:
    options = with_recommended(parse_options())
    photos = PhotoSet.find(options)  # Before any model loads: mistakes are here.
    settings = {method: part_settings(options, method) for method in options.methods}
    dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print
    folder = options.output_dir
    runs = {method: Run(folder / f"{options.run_name}-{method}") for method in options.methods}
    record = photos.record()
    if accelerator.is_main_process:
        attempt.claim(list(runs.values()), to_toml(options), record, options.resume)

    for line in photos.warnings:
        say(line)
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    pipe = load_sdxl(options.model, dtype)
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

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        photos.check_record(record)
        attempt.begin(to_toml(replace(options, resume=False)), record)
    start = common_checkpoint(list(runs.values())) if options.resume else 0
    if start:
        restore(trainees, draws, start)
    if options.resume:
        say(f"Going on after step {start} of {options.steps}")
    if accelerator.is_main_process:
        if start:
            draw_missing(subject, trainees, start)
        else:
            for run in runs.values():
                run.forget_after(-1)
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

    if accelerator.is_main_process and not start and options.evaluate_every:
        for trainee in trainees:  # Where the curve begins: every method starts at the base.
            trainee.run.log(0, **evaluate(trainee))
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


if __name__ == "__main__":
    sys.exit(Attempt().run(main))
