"""A training of any task (`Task`), from its command line to verified adapters."""

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
from nora_studio.trainer.build import build_train_state
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.out_of_memory import out_of_memory_in_one_line
from nora_studio.trainer.run_session import RunSession
from nora_studio.trainer.saving import restore, restore_run
from nora_studio.trainer.settings import KeepingSettings
from nora_studio.trainer.sharding import Sharding, check_sharded, through_base
from nora_studio.trainer.task import Task
from nora_studio.trainer.train_state import BatchSource, TrainState


def run(task: Task, session: RunSession) -> int:
    """Train as the command line says, and return the exit status.

    Raises:
        StudioError: anything that the user can correct.
    """
    sharding = Sharding.asked()
    processes.join()
    with processes.main_first():  # Before any model loads, so that mistakes are reported early.
        _check_processes(task, sharding)
        options = task.read_options()
        check_tracker(options.tracker)
        if sharding is not None:
            check_sharded(sharding, options)
    with task.around(options) as options:
        with processes.main_first():
            options, runs = locate_runs(task.complete(options))
            task.settings, task.sharding = task.resolve(options), sharding
        with out_of_memory_in_one_line(
            runs, task.trainer.learning.steps, task.memory_saving_tips()
        ):
            status = _train(task, session, options, runs)
    processes.leave()
    return status


def _train(task: Task, session: RunSession, options: Any, runs: dict[str, Run]) -> int:
    """Train every group of methods, and return the exit status."""
    with processes.main_first():
        record = task.read_data(runs)
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
            "this training runs in one process; start it without `accelerate launch`."
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
    """Train some methods on the same batches; return an exit status if they were not finished."""
    learning, keeping, plan = task.trainer.learning, task.trainer.keeping, task.trainer.plan
    sharding = task.sharding
    batches = task.batches()
    states: list[TrainState] = []
    for method, run in runs.items():
        own = prepare_accelerator(precision)
        states.append(build_train_state(task, method, run, own))
        print_trained_weights(states[-1], learning.steps, own.print)
    processes.seed_other_processes(learning.seed)
    begin()
    start = resume_or_start(states, batches, keeping.resume, learning.steps)
    open_trackers(session, states, keeping, config, start)

    def evaluate(state: TrainState) -> dict[str, float]:
        with state.averaged():
            return through_base(sharding, lambda: task.evaluate(state)) or {}

    task.start(states, start)
    if plan.evaluate_every and not start:
        _log_start(states, evaluate)
    status = task.preflight(states, evaluate)
    if status is not None:
        return status
    with StopRequest() as stop:
        done = train(states, batches, plan, stop, task.sample, evaluate, start)
    if not done and stop.signal is not None:
        return report_stop(stop)
    last, reasons = last_step(plan, states)
    through_base(sharding, lambda: finish_each(task, states, last, reasons))
    return None


def _log_start(
    states: list[TrainState], evaluate: Callable[[TrainState], dict[str, float]]
) -> None:
    """Log the measurements at step 0, before anything is trained.

    A separate function, so that its loop variable does not keep alive a state that `finish_each`
    has removed.
    """
    for state in states:
        measured = evaluate(state)
        processes.on_main(partial(state.log, 0, **measured))


def print_trained_weights(state: TrainState, steps: int, say: Callable[[str], object]) -> None:
    """Print a run's number of trained parameters, its folder, and the size of its first step.

    Call it on every process, before the run is resumed from a checkpoint.

    Args:
        steps: Steps of the whole run.
        say: Prints a line; it does nothing on processes that do not print.
    """
    total = sum(parameter.numel() for parameter in state.parameters)
    say(f"{state.label}: {total:,} trained parameters -> {state.run.folder}")
    found = first_steps(state.adapted, state.optimizer)
    if not found:
        return
    state.first_step = {part: float(f"{step.largest:.3g}") for part, step in found.items()}
    for line in format_report(state.label, found, steps, state.optimizer):
        say(line)


def resume_or_start(
    states: list[TrainState], batches: BatchSource, resume: bool, steps: int
) -> int:
    """Restore every run from the newest common checkpoint, and return its step, or 0.

    When starting from 0, the log lines and checkpoints of an earlier attempt are removed.
    """
    runs = [state.run for state in states]
    found = processes.on_main(lambda: common_checkpoint(runs, _say)) if resume else 0
    start = int(processes.all_reduce_max(found or 0))  # Only the main process has looked.
    if start:
        restore(states, batches, start)
    else:
        processes.on_main(lambda: [run.forget_after(-1) for run in runs])
    if resume and processes.is_main():
        print(f"Continuing after step {start} of {steps}", flush=True)
    return start


def _say(line: str) -> None:
    print(line, flush=True)


def open_trackers(
    session: RunSession, states: list[TrainState], keeping: KeepingSettings, config: str, start: int
) -> None:
    """Open the requested tracker for each run; it is closed with the session."""
    for state in states:
        folder = state.run.folder
        state.tracker = processes.on_main(
            partial(open_tracker, keeping.tracker, folder, config, start)
        )
        if state.tracker is not None:
            session.at_the_end.callback(state.tracker.finish)


def report_stop(stop: StopRequest) -> int:
    """Print how to continue after a stop, and return the exit status."""
    assert stop.signal is not None, "no stop was requested"
    if processes.is_main():
        print(f"Stopped by {stop.signal.name}. Continue with the same command and --resume.")
    return 128 + stop.signal


def last_step(plan: Plan, states: list[TrainState]) -> tuple[int, dict[str, str]]:
    """Return the last step that was trained, and by label why it was stopped early, if it was."""
    last = int(processes.all_reduce_max(plan.watch.ended_at(states) or 0)) or plan.steps
    reasons = plan.watch.reasons(states) if last < plan.steps else {}
    if processes.is_main():
        for label, reason in reasons.items():
            print(f"{label}: ended after step {last} of {plan.steps}; {reason}")
    return last, reasons


def finish_each(task: Task, states: list[TrainState], last: int, reasons: dict[str, str]) -> None:
    """Save and verify each adapter; each state is freed before the next, to save memory.

    Args:
        last: The last step that was trained.
        reasons: Why the run was stopped early, by label.

    Raises:
        StudioError: one failed; the other twins were finished all the same.
    """
    failures = []
    while states:
        try:
            line = finish(task, states.pop(0), last, reasons)
        except StudioError as error:
            failures.append(str(error))
            continue
        if line is not None:
            print(line, flush=True)
    if failures:
        raise StudioError(" ".join(failures))


def finish(
    task: Task, state: TrainState, last: int, reasons: Mapping[str, str] | None = None
) -> str | None:
    """Save the final adapter, and verify that it gives the same outputs in a freshly loaded base.

    Call it on the main process alone, or on all processes if the base is sharded.

    Args:
        last: The last step that was trained.
        reasons: Why the run was stopped early, by label.

    Returns:
        One line that says where the adapter is and how it was verified; None on other processes.

    Raises:
        StudioError: the outputs differ; the adapter is kept for inspection, the run marked failed.
    """
    keeping, run, method = task.trainer.keeping, state.run, state.label
    best = state.best if keeping.final == "best" else None
    # Only the main process knows the best step.
    step = int(processes.all_reduce_max(0 if best is None else best.step)) or last
    if step != last:
        task.show_last(state, last)
        restore_run(state, step)
    outputs = task.outputs(state, step)
    processes.on_main(partial(_save_final, state, step))
    facts: dict[str, Any] = {**state.best_facts}
    if keeping.names_step:
        facts["adapter_step"] = step
    if reasons and method in reasons:
        facts["ended"] = reasons[method]
    accelerator = state.accelerator
    accelerator.free_memory()
    del state  # Free its weights and optimizer: verifying loads the base again.
    gc.collect()
    proof = task.finish(run, method, outputs, accelerator)

    def set_final_status() -> str:
        assert proof is not None, "the main process has compared"
        steps = task.trainer.learning.steps
        if proof.problem is not None:
            run.set_status("failed", last, steps, error=proof.problem, **facts)
            raise StudioError(proof.line)
        run.set_status("finished", last, steps, **proof.facts, **facts)
        which = "" if step == last else f" as of step {step}, the best"
        return proof.line.replace("{adapter}", f"{run.adapter}{which}")

    return processes.on_main(set_final_status)


def _save_final(state: TrainState, step: int) -> None:
    with state.run.saving_adapter() as fresh, state.averaged():
        state.write_adapter(fresh, step)
