"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys

import torch

from nora_studio.cache import Stores
from nora_studio.config import DreamboothOptions, part_settings, with_recommended
from nora_studio.dreambooth import Denoising, encode_prompts
from nora_studio.errors import StudioError, run_entry
from nora_studio.loop import Plan, StopRequest, Trainee, restore, train
from nora_studio.models import choose_dtype, choose_trigger, load_sdxl, native_resolution, wake
from nora_studio.options_file import parse_options, to_toml
from nora_studio.personalise import (
    Subject,
    build_trainee,
    draw_base,
    draw_sample,
    finish,
    prepare_accelerator,
)
from nora_studio.photo_set import PhotoSet
from nora_studio.runs import Run, common_checkpoint

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def main() -> int:
    options = with_recommended(parse_options())
    photos = PhotoSet.find(options)  # Before any model loads: mistakes are here.
    settings = {method: part_settings(options, method) for method in options.methods}
    dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print
    runs = {method: find_run(options, method) for method in options.methods}

    for line in photos.warnings:
        say(line)
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    pipe = load_sdxl(options.model, dtype)
    # Only what every step needs; the VAE and frozen text encoders come to the device when called.
    trained = {part for parts in settings.values() for part in parts}
    wake(pipe, {"unet", *trained}, accelerator.device)
    size = options.resolution or native_resolution(pipe)
    trigger = choose_trigger(pipe, options.trigger)
    stores = Stores.default() if options.cache else None
    subject = Subject(
        options=options,
        pipe=pipe,
        size=size,
        trigger=trigger,
        text=encode_prompts(pipe, photos.prompts, trigger, stores.text if stores else None),
        process=Denoising.of(pipe, options.snr_gamma),
    )
    for line in photos.long_captions(pipe, trigger):
        say(line)
    say(f"[V] is {trigger!r}; encoding photos at {size}x{size}")
    caches = photos.encode(pipe, size, stores, say)
    draws = photos.draws(caches, subject.process.timesteps_below(options.max_timestep))

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
        max_gradient_norm=options.max_gradient_norm,
    )

    def sample(trainee: Trainee, step: int) -> None:
        draw_sample(subject, trainee, step)

    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, sample, start)
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
