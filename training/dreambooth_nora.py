"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
In several processes (`accelerate launch --num_processes 4`) each takes its share of every batch.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import contextlib
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Imports take seconds and have begun nothing: Ctrl-C just ends them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
from tqdm import tqdm

from nora_studio.adapters.new_tokens import TOKENIZERS
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import defaults_as_toml, options_given, parse_options, to_toml
from nora_studio.options.part_settings import part_settings, parts_along_inputs
from nora_studio.runs import processes
from nora_studio.runs.run_places import placed
from nora_studio.runs.stop import StopRequest
from nora_studio.runs.trackers import check_tracker
from nora_studio.sdxl.base import load_base
from nora_studio.sdxl.models import choose_dtype, wake
from nora_studio.tasks.dreambooth.activations import first_batch, record_activations
from nora_studio.tasks.dreambooth.fitting import fitted
from nora_studio.tasks.dreambooth.gallery import Gallery, load_judge
from nora_studio.tasks.dreambooth.held_out import measure
from nora_studio.tasks.dreambooth.personalise import build_trainee
from nora_studio.tasks.dreambooth.photo_set import PhotoSet
from nora_studio.tasks.dreambooth.preflight import rehearsal, rehearse
from nora_studio.tasks.dreambooth.preparation import prepare
from nora_studio.tasks.dreambooth.proof import finish
from nora_studio.trainer.assembly import MIXED, prepare_accelerator
from nora_studio.trainer.attempt import Attempt
from nora_studio.trainer.course import (
    ending,
    finish_each,
    go_on_from,
    open_trackers,
    say_what_is_trained,
    stopped,
)
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.out_of_memory import told_in_one_line
from nora_studio.trainer.sharding import Sharding, check_sharded, through_base
from nora_studio.trainer.trainee import Trainee


def main(attempt: Attempt) -> int:
    sharding = Sharding.asked()
    processes.join()
    with processes.main_first():  # Before any model loads: mistakes are here, and told once.
        asked = with_recommended(parse_options())
        check_tracker(asked.tracker)
        check_sharded(sharding, asked)
    if asked.fit is not None and not asked.preflight:
        asked = fitted(asked, options_given(), Path(__file__), print)
    place = rehearsal(asked) if asked.preflight else contextlib.nullcontext(asked)
    with told_in_one_line(asked), place as options:
        return personalise(attempt, options, asked, sharding)


def personalise(
    attempt: Attempt,
    options: DreamboothOptions,
    asked: DreamboothOptions,
    sharding: Sharding | None,
) -> int:
    """Train; in a preflight only measure, `asked` then naming the folder that was asked for."""
    with processes.main_first():
        options, runs = placed(options)
        photos = PhotoSet.find(options)
        settings = {method: part_settings(options, method) for method in options.methods}
        dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    config, record = to_toml(replace(options, resume=False)), photos.record()
    held, defaults = list(runs.values()), defaults_as_toml()
    processes.on_main(partial(attempt.claim, held, config, record, options.resume, defaults))
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print

    for line in photos.warnings:
        say(line)
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    pipe = load_base(options, dtype, accelerator.device)
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
            pipe, subject.text, subject.process, parts_along_inputs(settings), batch
        )
        subject = replace(subject, activations=activations)

    trainees: list[Trainee] = []
    for method in options.methods:
        own = prepare_accelerator(MIXED[dtype])
        trainee = build_trainee(subject, method, settings[method], runs[method], own)
        trainees.append(trainee)
        say_what_is_trained(trainee, options.steps, say)

    processes.part_ways(options.seed)
    processes.on_main(lambda: photos.check_record(record))
    processes.on_main(partial(attempt.begin, config, record))
    start = go_on_from(trainees, draws, options.resume, options.steps)
    open_trackers(attempt, trainees, options, config, start)
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

    if start:
        gallery.catch_up(trainees, start, options.sample_every)
    else:
        gallery.show_base(trainees)
        for trainee in trainees if options.evaluate_every else ():
            measured = evaluate(trainee)  # Where the curve begins: every method starts at the base.
            processes.on_main(partial(trainee.log, 0, **measured))
    plan = Plan.of(options, options, options, options.sample_every)
    if options.preflight:
        return rehearse(asked, subject, draws, trainees, plan, gallery.show, evaluate)
    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, gallery.show, evaluate, start)
    if not done and stop.signal is not None:
        status = stopped(stop)
        processes.leave()
        return status
    last, reasons = ending(plan, trainees)
    proven = partial(finish, subject, show=gallery.draw, last=last, reasons=reasons)
    through_base(sharding, lambda: finish_each(trainees, proven))
    processes.leave()
    return 0


if __name__ == "__main__":
    sys.exit(Attempt().run(main))
