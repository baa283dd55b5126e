"""A training from its command line to proven adapters, whatever its task (`Task`)."""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from nora_studio.adapters.methods.first_step import first_steps, format_report
from nora_studio.errors import StudioError
from nora_studio.options.options_file import defaults_as_toml, to_toml
from nora_studio.options.precision import choose_dtype
from nora_studio.runs import processes
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.run_folders import locate_runs
from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.runs.trackers import check_tracker, open_tracker
from nora_studio.trainer.acceleration import MIXED, prepare_accelerator
from nora_studio.trainer.build import build_trainee
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.out_of_memory import out_of_memory_in_one_line
from nora_studio.trainer.run_session import RunSession
from nora_studio.trainer.saving import restore, set_back
from nora_studio.trainer.settings import KeepingSettings
from nora_studio.trainer.sharding import Sharding, check_sharded, through_base
from nora_studio.trainer.task import Task
from nora_studio.trainer.trainee import BatchSource, Trainee


def run(task: Task, session: RunSession) -> int:
    """Train what the command line asks for; the exit status.

    Raises:
        StudioError: anything that a person can mend.
    """
    sharding = Sharding.asked()
    processes.join()
    with processes.main_first():  # Before any model loads: mistakes are here, and told once.
        _check_processes(task, sharding)
        options = task.read_options()
        check_tracker(options.tracker)
        if sharding is not None:
            check_sharded(sharding, options)
    with task.around(options) as options:
        with processes.main_first():
            options, runs = locate_runs(task.complete(options))
            task.settings, task.sharding = task.resolve(options), sharding
        with out_of_memory_in_one_line(runs, task.trainer.learning.steps, task.savings()):
            status = _train(task, session, options, runs)
    processes.leave()
    return status


def _train(task: Task, session: RunSession, options: Any, runs: dict[str, Run]) -> int:
    """Train every group of methods; the exit status."""
    with processes.main_first():
        record = task.find_data(runs)
        dtype = choose_dtype(options.precision, "cuda" if torch.cuda.is_available() else "cpu")
    config = to_toml(replace(options, resume=False))
    defaults, held = defaults_as_toml(type(options)), list(runs.values())
    processes.on_main(
        partial(session.claim, held, config, record, options.resume, defaults, task.data)
    )
    task.prepare(dtype, prepare_accelerator(MIXED[dtype]))
    work = partial(_begin, session, task, config, record, runs)
    begin = cache(partial(processes.on_main, work))  # Once, however many groups there are.
    for group in task.groups(runs):
        twins = {method: runs[method] for method in group}
        status = _train_twins(task, session, twins, config, MIXED[dtype], begin)
        if status is not None:
            return status
    begin()
    return 0


def _check_processes(task: Task, sharding: Sharding | None) -> None:
    if not task.distributed and (sharding or int(os.environ.get("WORLD_SIZE", "1")) > 1):
        raise StudioError(
            "this training is done by one process; start it without `accelerate launch`."
        )


def _begin(
    session: RunSession, task: Task, config: str, record: Mapping[str, str], runs: dict[str, Run]
) -> None:
    task.check_data()
    session.begin(config, record)
    task.begin(runs)


def _train_twins(
    task: Task,
    session: RunSession,
    runs: dict[str, Run],
    config: str,
    precision: str,
    begin: Callable[[], object],
) -> int | None:
    """Train some methods on the same batches; an exit status where it ends before the last step."""
    learning, keeping, plan = task.trainer.learning, task.trainer.keeping, task.trainer.plan
    sharding = task.sharding
    batches = task.batches()
    trainees: list[Trainee] = []
    for method, run in runs.items():
        own = prepare_accelerator(precision)
        trainees.append(build_trainee(task, method, run, own))
        say_what_is_trained(trainees[-1], learning.steps, own.print)
    processes.seed_ranks(learning.seed)
    begin()
    start = go_on_from(trainees, batches, keeping.resume, learning.steps)
    open_trackers(session, trainees, keeping, config, start)

    def evaluate(trainee: Trainee) -> dict[str, float]:
        with trainee.served():
            return through_base(sharding, lambda: task.evaluate(trainee)) or {}

    task.start(trainees, start)
    if plan.evaluate_every and not start:
        _log_start(trainees, evaluate)
    status = task.rehearse(trainees, evaluate)
    if status is not None:
        return status
    with StopRequest() as stop:
        done = train(trainees, batches, plan, stop, task.sample, evaluate, start)
    if not done and stop.signal is not None:
        return stopped(stop)
    last, reasons = ending(plan, trainees)
    through_base(sharding, lambda: finish_each(task, trainees, last, reasons))
    return None


def _log_start(trainees: list[Trainee], evaluate: Callable[[Trainee], dict[str, float]]) -> None:
    """Measure where each curve begins: every method starts at the base.

    A function of its own, so that its caller keeps no trainee that `finish_each` has let go.
    """
    for trainee in trainees:
        measured = evaluate(trainee)
        processes.on_main(partial(trainee.log, 0, **measured))


def say_what_is_trained(trainee: Trainee, steps: int, say: Callable[[str], object]) -> None:
    """Say how much a trainee trains, where to, and how far its first step moves the weights.

    Before it goes on from a checkpoint. Called on every process.

    Args:
        steps: Of the whole run.
        say: Takes a line; on processes that have nothing to say it keeps silent.
    """
    total = sum(parameter.numel() for parameter in trainee.parameters)
    say(f"{trainee.label}: {total:,} trained parameters -> {trainee.run.folder}")
    found = first_steps(trainee.adapted, trainee.optimizer)
    if not found:
        return
    trainee.first_step = {part: float(f"{step.largest:.3g}") for part, step in found.items()}
    for line in format_report(trainee.label, found, steps, trainee.optimizer):
        say(line)


def go_on_from(trainees: list[Trainee], batches: BatchSource, resume: bool, steps: int) -> int:
    """Set every trainee back to the last checkpoint that all have; the step it is of, or 0.

    A start from 0 leaves nothing in the runs of what was measured and drawn before.
    """
    runs = [trainee.run for trainee in trainees]
    found = processes.on_main(lambda: common_checkpoint(runs, _say)) if resume else 0
    start = int(processes.all_reduce_max(found or 0))  # The main process alone has looked.
    if start:
        restore(trainees, batches, start)
    else:
        processes.on_main(lambda: [run.forget_after(-1) for run in runs])
    if resume and processes.is_main():
        print(f"Going on after step {start} of {steps}", flush=True)
    return start


def _say(line: str) -> None:
    print(line, flush=True)


def open_trackers(
    session: RunSession, trainees: list[Trainee], keeping: KeepingSettings, config: str, start: int
) -> None:
    """Give each trainee the tracker that was asked for; it closes with the session."""
    for trainee in trainees:
        folder = trainee.run.folder
        trainee.tracker = processes.on_main(
            partial(open_tracker, keeping.tracker, folder, config, start)
        )
        if trainee.tracker is not None:
            session.at_the_end.callback(trainee.tracker.finish)


def stopped(stop: StopRequest) -> int:
    """Say how to go on after a stop; the exit status it comes to."""
    assert stop.signal is not None, "nobody asked to stop"
    if processes.is_main():
        print(f"Stopped by {stop.signal.name}. Go on with the same command and --resume.")
    return 128 + stop.signal


def ending(plan: Plan, trainees: list[Trainee]) -> tuple[int, dict[str, str]]:
    """Return the last step that was trained, and by label why it came early, if it did."""
    last = int(processes.all_reduce_max(plan.watch.ended_at(trainees) or 0)) or plan.steps
    reasons = plan.watch.reasons(trainees) if last < plan.steps else {}
    if processes.is_main():
        for label, reason in reasons.items():
            print(f"{label}: ended after step {last} of {plan.steps}; {reason}")
    return last, reasons


def finish_each(task: Task, trainees: list[Trainee], last: int, reasons: dict[str, str]) -> None:
    """Have each saved and proven, one at a time; it is gone before the next, to make room.

    Args:
        last: The last step that was trained.
        reasons: Why that is before the plan's, by the trainees' labels.

    Raises:
        StudioError: one failed; every twin has had its chance.
    """
    failures = []
    while trainees:
        try:
            line = finish(task, trainees.pop(0), last, reasons)
        except StudioError as error:
            failures.append(str(error))
            continue
        if line is not None:
            print(line, flush=True)
    if failures:
        raise StudioError(" ".join(failures))


def finish(
    task: Task, trainee: Trainee, last: int, reasons: Mapping[str, str] | None = None
) -> str | None:
    """Save the final adapter and prove it: read into a fresh base, it must answer the same.

    Called by the main process alone, or by all where the base is in shards.

    Args:
        last: The last step that was trained.
        reasons: Why that is before the plan's, if it is, by the trainees' labels.

    Returns:
        One line that says where the adapter is and how it was proven, on the main process.

    Raises:
        StudioError: the proof failed; the adapter is kept for inspection, the run marked failed.
    """
    keeping, run, method = task.trainer.keeping, trainee.run, trainee.label
    best = trainee.best if keeping.final == "best" else None
    # The main process alone knows it.
    step = int(processes.all_reduce_max(0 if best is None else best.step)) or last
    if step != last:
        task.show_last(trainee, last)
        set_back(trainee, step)
    answers = task.answers(trainee, step)
    processes.on_main(partial(_save_final, trainee, step))
    facts: dict[str, Any] = {**trainee.best_facts}
    if keeping.names_step:
        facts["adapter_step"] = step
    if reasons and method in reasons:
        facts["ended"] = reasons[method]
    accelerator = trainee.accelerator
    accelerator.free_memory()
    del trainee  # With its weights and its optimizer: the proof loads the base once more.
    gc.collect()
    proof = task.finish(run, method, answers, accelerator)

    def tell() -> str:
        assert proof is not None, "the main process has compared"
        steps = task.trainer.learning.steps
        if proof.problem is not None:
            run.set_status("failed", last, steps, error=proof.problem, **facts)
            raise StudioError(proof.line)
        run.set_status("finished", last, steps, **proof.facts, **facts)
        which = "" if step == last else f" as of step {step}, the best"
        return proof.line.replace("{adapter}", f"{run.adapter}{which}")

    return processes.on_main(tell)


def _save_final(trainee: Trainee, step: int) -> None:
    with trainee.run.saving_adapter() as fresh, trainee.served():
        trainee.write_adapter(fresh, step)
