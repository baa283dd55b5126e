"""Adapt a causal language model to commonsense questions with NoRA, LoRA, or several as twins.

    python training/llama_commonsense.py --method nora,lora
    accelerate launch --num_processes 4 training/llama_commonsense.py --model huggyllama/llama-7b \\
        --data commonsense_170k.json --method nora

Writes one run folder for each method (`runs/commonsense-nora`, `runs/commonsense-lora`). Without
`--model` it is the embedded one, with questions about the small world that it has read of.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import signal
import sys
from dataclasses import replace
from functools import partial

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Imports take seconds and have begun nothing: Ctrl-C just ends them.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch

from nora_studio.adapters.base_digests import forbid_disk
from nora_studio.options.options_file import defaults_as_toml, parse, to_toml
from nora_studio.runs import processes
from nora_studio.runs.run_places import placed
from nora_studio.runs.stop import StopRequest
from nora_studio.runs.trackers import check_tracker
from nora_studio.sdxl.models import choose_dtype
from nora_studio.tasks.commonsense.batches import QuestionDraws
from nora_studio.tasks.commonsense.config import CommonsenseOptions
from nora_studio.tasks.commonsense.defaults import with_recommended, with_steps
from nora_studio.tasks.commonsense.examples import encode
from nora_studio.tasks.commonsense.models import load_decoder, load_tokenizer
from nora_studio.tasks.commonsense.rows import digest, split, training_rows
from nora_studio.tasks.commonsense.task import (
    Task,
    build_trainee,
    finish,
    measure,
    settings_of,
    validation_batches,
)
from nora_studio.trainer.build import MIXED, prepare_accelerator
from nora_studio.trainer.lifecycle import (
    ending,
    finish_each,
    go_on_from,
    open_trackers,
    say_what_is_trained,
    stopped,
)
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.run_session import Attempt
from nora_studio.trainer.sharding import Sharding, check_sharded, through_base
from nora_studio.trainer.trainee import Trainee


def main(attempt: Attempt) -> int:
    sharding = Sharding.asked()
    processes.join()
    with processes.main_first():  # Before any model loads: mistakes are here, and told once.
        options = with_recommended(parse(CommonsenseOptions))
        check_tracker(options.tracker)
        check_sharded(sharding, options)
        found = training_rows(options.data)
        record = {name: digest(rows) for name, rows in found.items()}
        settings = {method: settings_of(options, method) for method in options.methods}
        dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load_tokenizer(options.model)
        rows, kept_out = split(found, options.validation or 0, options.seed)
        cut = partial(
            encode,
            tokenizer=tokenizer,
            cutoff=options.cutoff,
            train_on_inputs=bool(options.train_on_inputs),
        )
        examples, validation = [cut(row) for row in rows], [cut(row) for row in kept_out]
        options, runs = placed(with_steps(options, examples))
    config = to_toml(replace(options, resume=False))
    began, data = defaults_as_toml(CommonsenseOptions), "questions"
    held = list(runs.values())
    processes.on_main(partial(attempt.claim, held, config, record, options.resume, began, data))
    accelerator = prepare_accelerator(MIXED[dtype])
    say = accelerator.print
    say(f"Loading {options.model} ({dtype}, {accelerator.device})")
    decoder = load_decoder(options.model, dtype, accelerator.device, options.base_bits)
    if not options.cache:
        forbid_disk(decoder)
    pad = tokenizer.pad_token_id
    task = Task(options, decoder, validation_batches(validation, pad), sharding)
    draws = QuestionDraws(
        examples,
        options.batch_size or 1,
        pad,
        options.seed,
        options.group_by_length,
        options.cutoff if options.packing else None,
    )
    say(f"{len(examples):,} questions, {len(validation)} kept out; {options.steps:,} steps")

    trainees: list[Trainee] = []
    for method in options.methods:
        own = prepare_accelerator(MIXED[dtype])
        trainee = build_trainee(task, method, settings[method], runs[method], own)
        trainees.append(trainee)
        say_what_is_trained(trainee, options.steps, say)

    processes.part_ways(options.seed)
    processes.on_main(partial(attempt.begin, config, record))
    start = go_on_from(trainees, draws, options.resume, options.steps)
    open_trackers(attempt, trainees, options, config, start)

    def evaluate(trainee: Trainee) -> dict[str, float]:
        loss = through_base(sharding, lambda: measure(task, trainee))
        return {} if loss is None else {"held_out_loss": loss}

    if not start:
        for trainee in trainees if options.evaluate_every else ():
            measured = evaluate(trainee)  # Where the curve begins: every method starts at the base.
            processes.on_main(partial(trainee.log, 0, **measured))
    plan = Plan.of(options, options, options)
    with StopRequest() as stop:
        done = train(trainees, draws, plan, stop, lambda trainee, step: None, evaluate, start)
    if not done and stop.signal is not None:
        status = stopped(stop)
        processes.leave()
        return status
    last, reasons = ending(plan, trainees)
    proven = partial(finish, task, last=last, reasons=reasons)
    through_base(sharding, lambda: finish_each(trainees, proven))
    processes.leave()
    return 0


if __name__ == "__main__":
    sys.exit(Attempt().run(main))
