"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys
from contextlib import ExitStack
from dataclasses import replace

import torch
from accelerate import Accelerator
from tqdm import tqdm

from nora_studio.activations import first_batch, record_activations
from nora_studio.config import DreamboothOptions
from nora_studio.defaults import with_recommended
from nora_studio.early_stop import Watch
from nora_studio.errors import StudioError, run_entry
from nora_studio.gallery import Gallery
from nora_studio.held_out import measure
from nora_studio.loop import Plan, train
from nora_studio.models import EMBEDDED, choose_dtype, load_sdxl, wake
from nora_studio.options_file import parse_options, to_toml
from nora_studio.part_settings import part_settings
from nora_studio.personalise import build_trainee, prepare_accelerator
from nora_studio.photo_set import PhotoSet
from nora_studio.preparation import prepare
from nora_studio.proof import finish
from nora_studio.runs import Run, common_checkpoint
from nora_studio.sample_scores import SampleJudge
from nora_studio.samples import sample_prompts
from nora_studio.saving import restore
from nora_studio.stop import StopRequest
from nora_studio.subject import Subject
from nora_studio.trackers import check_tracker, open_tracker
from nora_studio.trainee import Trainee

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def main() -> int:
    with ExitStack() as at_the_end:
        return personalise(at_the_end)


def personalise(at_the_end: ExitStack) -> int:
    """Train what the command line asks for.

    Args:
        at_the_end: Closes the trackers, however the training ends.

    Returns:
        The exit status.
    """
    options = with_recommended(parse_options())
    check_tracker(options.tracker)
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
    with accelerator.main_process_first():  # It draws and encodes; the others read what it kept.
        prepared = prepare(options, pipe, photos, say)
    subject, draws = prepared.subject, prepared.draws
    judge = load_judge(subject, photos, accelerator)

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
    gallery = Gallery(subject, runs, judge, tqdm.write)
    if accelerator.is_main_process:
        for trainee in trainees:
            trainee.tracker = open_tracker(
                options.tracker, trainee.run.folder, to_toml(options), start
            )
            if trainee.tracker is not None:
                at_the_end.callback(trainee.tracker.finish)
        if options.resume:
            gallery.catch_up(trainees, start, options.sample_every)
        else:
            gallery.show_base(trainees)
    plan = Plan(
        steps=options.steps or 0,
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        keep_checkpoints=options.keep_checkpoints,
        sample_every=options.sample_every,
        evaluate_every=options.evaluate_every,
        max_gradient_norm=options.max_gradient_norm,
        watch=Watch(options.early_stop, options.patience or 1),
    )

    def evaluate(trainee: Trainee) -> dict[str, float]:
        fixed = prepared.fixed
        return {fixed.name: measure(fixed, trainee.model, trainee.accelerator)} if fixed else {}

    if accelerator.is_main_process and not options.resume and options.evaluate_every:
        for trainee in trainees:  # Where the curve begins: every method starts at the base.
            trainee.log(0, **evaluate(trainee))
    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, gallery.show, evaluate, start)
    if not done and stop.signal is not None:
        say(f"Stopped by {stop.signal.name}. Go on with the same command and --resume.")
        return 128 + stop.signal
    if accelerator.is_main_process:
        failures, last = [], plan.watch.ended_at(trainees) or plan.steps
        reasons = plan.watch.reasons(trainees) if last < plan.steps else {}
        for label, reason in reasons.items():
            print(f"{label}: ended after step {last} of {plan.steps}; {reason}")
        while trainees:
            # One at a time, so that the proof's fresh pipeline finds room; each has its chance.
            reason = reasons.get(trainees[0].label)
            try:
                print(finish(subject, trainees.pop(0), gallery.show, last, reason))
            except StudioError as error:
                failures.append(str(error))
        if failures:
            raise StudioError(" ".join(failures))
    accelerator.end_training()
    return 0


def load_judge(subject: Subject, photos: PhotoSet, accelerator: Accelerator) -> SampleJudge | None:
    """What scores the samples, held against the photos that are not trained on, if there are."""
    options = subject.options
    if not options.score_samples or not accelerator.is_main_process:
        return None
    trained, held_out = photos.split(options.hold_out)
    shown, kind = (trained, "training") if held_out is None else (held_out, "held-out")
    name = options.clip or EMBEDDED
    count = len(shown.files)
    print(f"Samples are judged by {name} CLIP against {count} {kind} photo{'s' * (count > 1)}")
    return SampleJudge.load(name, shown.files, sample_prompts(subject), accelerator.device)


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
