"""Adapt a CLIP to a few pictures of each class with NoRA, CLIP-LoRA or others, and test it.

    python training/clip_fewshot.py --shots 4 --method nora,clip-lora,zero-shot
    python training/clip_fewshot.py --model ViT-B-16:openai --dataset dtd --data-dir data \\
        --shots 16 --seed 1 --method clip-lora,nora

Writes one run folder for each method (`runs/embedded-4shots-seed0-nora`), with the adapter, the
pictures that were drawn (`shots.json`) and top-1 on the test split (`scores.json`).
Protocol: CLIP-LoRA (arXiv 2405.18541), which Table 2 of arXiv 2408.10280 follows.
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

from nora_studio.options.options_file import defaults_as_toml, parse, to_toml
from nora_studio.runs.run_places import placed
from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.runs.trackers import check_tracker
from nora_studio.sdxl.models import choose_dtype
from nora_studio.tasks.fewshot.clip import load_clip
from nora_studio.tasks.fewshot.datasets import find_dataset, record_of
from nora_studio.tasks.fewshot.merging import check_mergeable
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.pictures import ShotDraws
from nora_studio.tasks.fewshot.recommended import with_recommended
from nora_studio.tasks.fewshot.settings import FewshotOptions
from nora_studio.tasks.fewshot.shots import draw_shots
from nora_studio.tasks.fewshot.task import FewshotTask
from nora_studio.tasks.fewshot.training import (
    ZeroShotScores,
    build_trainee,
    finish,
    write_scores,
    write_shots,
    zero_shot,
)
from nora_studio.trainer.build import MIXED, prepare_accelerator
from nora_studio.trainer.lifecycle import (
    finish_each,
    go_on_from,
    open_trackers,
    say_what_is_trained,
    stopped,
)
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.run_session import Attempt


def main(attempt: Attempt) -> int:
    known = {name: method.tuner for name, method in METHODS.items()}
    options = with_recommended(parse(FewshotOptions), known)
    check_tracker(options.tracker)
    for name in options.methods:
        METHODS[name].check(options, name)
    if options.merged:
        check_mergeable(options.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(options.precision, device)
    dataset = find_dataset(options.dataset, options.data_dir)
    splits = dataset.splits
    shots, validation = draw_shots(splits["train"], splits["val"], options.shots, options.seed)
    record = record_of(shots, "train") | record_of(validation, "val")
    options, runs = placed(options)
    config = to_toml(replace(options, resume=False))
    attempt.claim(
        list(runs.values()), config, record, options.resume, defaults_as_toml(FewshotOptions)
    )
    print(f"{dataset.name}: {len(dataset.classes)} classes, {dataset.note or 'splits of its own'}")
    print(f"Loading {options.model} ({dtype}, {device})", flush=True)
    task = FewshotTask.of(
        options, load_clip(options.model, dtype, device), dataset, shots, validation
    )
    attempt.begin(config, record)
    for run in runs.values():
        write_shots(run.folder, task, shots, validation)
    before = zero_shot(task, prepare_accelerator(MIXED[dtype]))
    print(f"zero-shot: {before.accuracy:.1%} of {len(task.test.pictures):,} test pictures")
    if "zero-shot" in runs:
        run = runs.pop("zero-shot")
        values = {"accuracy": before.accuracy, "validation": before.validation, "parameters": 0}
        write_scores(run, task, "zero-shot", before, **values)
        run.set_status("finished", 0, 0, accuracy=round(before.accuracy, 5))
    for names in [list(runs)] if options.twins else [[name] for name in runs]:
        status = learn(attempt, task, {name: runs[name] for name in names}, before, config)
        if status:
            return status
    return 0


def learn(
    attempt: Attempt,
    task: FewshotTask,
    runs: dict[str, Run],
    before: ZeroShotScores,
    config: str,
) -> int:
    """Train the methods of some runs as twins, and test them."""
    options = task.options
    ended = [run.read_status().get("accuracy") is not None for run in runs.values()]
    if not runs or (options.resume and all(ended)):
        return 0
    precision = MIXED[task.clip.dtype]
    trainees = [
        build_trainee(task, name, run, prepare_accelerator(precision)) for name, run in runs.items()
    ]
    for trainee in trainees:
        say_what_is_trained(trainee, options.steps, partial(print, flush=True))
    draws = ShotDraws(task.shots, options.batch_size or 1, options.seed, options.augment)
    start = go_on_from(trainees, draws, options.resume, options.steps)
    open_trackers(attempt, trainees, options, config, start)
    plan = Plan.of(options, options)
    with StopRequest() as stop:
        done = train(
            trainees, draws, plan, stop, lambda trainee, step: None, lambda trainee: {}, start
        )
    if not done and stop.signal is not None:
        return stopped(stop)
    finish_each(trainees, partial(finish, task, before=before))
    return 0


if __name__ == "__main__":
    sys.exit(Attempt().run(main))
