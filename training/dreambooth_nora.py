"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
In several processes (`accelerate launch --num_processes 4`) each takes its share of every batch.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from tqdm import tqdm

from nora_studio import processes
from nora_studio.activations import first_batch, record_activations
from nora_studio.defaults import with_recommended
from nora_studio.errors import run_entry
from nora_studio.gallery import Gallery, load_judge
from nora_studio.held_out import measure
from nora_studio.loop import Plan, train
from nora_studio.models import choose_dtype, load_sdxl, wake
from nora_studio.new_tokens import TOKENIZERS
from nora_studio.options_file import parse_options, to_toml
from nora_studio.part_settings import part_settings
from nora_studio.personalise import build_trainee, prepare_accelerator
from nora_studio.photo_set import PhotoSet
from nora_studio.preparation import prepare
from nora_studio.proof import finish_all
from nora_studio.run_folders import find_run
from nora_studio.runs import Run, common_checkpoint
from nora_studio.saving import restore
from nora_studio.sharding import Sharding, check_methods, through_base
from nora_studio.stop import StopRequest
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
    sharding = Sharding.asked()
    processes.join()
    with processes.main_first():  # Before any model loads: mistakes are here, and told once.
        options = with_recommended(parse_options())
        check_tracker(options.tracker)
        photos = PhotoSet.find(options)
        settings = {method: part_settings(options, method) for method in options.methods}
        dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
        check_methods(sharding, options.methods)
        runs = {method: find_run(options, method) for method in options.methods}
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print

    for line in photos.warnings:
        say(line)
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    pipe = load_sdxl(options.model, dtype)
    # Only what every step needs; the VAE and frozen text encoders come to the device when called.
    trained = {part for parts in settings.values() for part in parts}
    if options.new_tokens:
        trained |= set(TOKENIZERS)
    wake(pipe, {"unet", *trained}, accelerator.device)
    with processes.main_first():  # It draws and encodes; the others read what it kept.
        prepared = prepare(options, pipe, photos, say)
    subject, draws = replace(prepared.subject, sharding=sharding), prepared.draws
    judge = processes.on_main(partial(load_judge, subject, photos))

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

    processes.part_ways(options.seed)
    start, plan = 0, Plan.of(options, options)
    processes.wait()  # Every process has looked for old runs by now.
    if options.resume:
        start = common_checkpoint(list(runs.values()))
        restore(trainees, draws, start)
        processes.on_main(lambda: [run.extend(to_toml(options)) for run in runs.values()])
        say(f"Going on after step {start} of {options.steps}")
    else:
        processes.on_main(lambda: [Run.create(r.folder, to_toml(options)) for r in runs.values()])
    for trainee in trainees:
        trainee.tracker = processes.on_main(
            partial(open_tracker, options.tracker, trainee.run.folder, to_toml(options), start)
        )
        if trainee.tracker is not None:
            at_the_end.callback(trainee.tracker.finish)
    gallery = Gallery(subject, runs, judge, tqdm.write)

    def evaluate(trainee: Trainee) -> dict[str, float]:
        fixed = prepared.fixed
        if fixed is None:
            return {}
        with trainee.served():
            loss = through_base(
                sharding, lambda: measure(fixed, trainee.model, trainee.accelerator)
            )
        return {} if loss is None else {fixed.name: loss}

    if options.resume:
        gallery.catch_up(trainees, start, options.sample_every)
    else:
        gallery.show_base(trainees)
        for trainee in trainees if options.evaluate_every else ():
            measured = evaluate(trainee)  # Where the curve begins: every method starts at the base.
            processes.on_main(partial(trainee.log, 0, **measured))
    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, gallery.show, evaluate, start)
    if not done and stop.signal is not None:
        say(f"Stopped by {stop.signal.name}. Go on with the same command and --resume.")
        processes.leave()
        return 128 + stop.signal
    last = int(processes.largest(plan.watch.ended_at(trainees) or 0)) or plan.steps
    reasons = plan.watch.reasons(trainees) if last < plan.steps else {}
    for label, reason in reasons.items():
        say(f"{label}: ended after step {last} of {plan.steps}; {reason}")
    through_base(sharding, lambda: finish_all(subject, trainees, gallery.draw, last, reasons))
    processes.leave()
    return 0


if __name__ == "__main__":
    sys.exit(run_entry(main))
