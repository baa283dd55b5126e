"""The training loop: step, clip, log, checkpoint, stop. It is the same for every task."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.runs import processes
from nora_studio.runs.stop import StopRequest
from nora_studio.trainer.early_stop import EarlyStopping, Verdict
from nora_studio.trainer.progress import Clock, check_finite, report
from nora_studio.trainer.saving import save_checkpoints
from nora_studio.trainer.train_state import Batch, BatchSource, StepCallback, TrainState


@dataclass(frozen=True)
class Plan:
    """When the loop logs, saves, samples and evaluates; all counts are in steps."""

    steps: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int
    """0 to never sample within the loop."""
    evaluate_every: int
    """0 to never evaluate."""
    max_gradient_norm: float
    watch: EarlyStopping
    """When measurements stop the run early."""
    accumulate: int
    """Micro-batches of each process's share of a batch."""


def train(
    states: list[TrainState],
    batches: BatchSource,
    plan: Plan,
    stop: StopRequest,
    sample: Callable[[TrainState, int], object],
    evaluate: Callable[[TrainState], dict[str, float]],
    start: int = 0,
) -> bool:
    """Train all runs on the same batches, step by step.

    Args:
        start: Steps done already.
        sample: Generates a run's fixed-seed previews after a step. Called on every process.
        evaluate: Returns a run's measurements for the log, by name. Called on every process.

    Returns:
        Whether the runs were finished, early or not; False after a stop, with checkpoints written.

    Raises:
        StudioError: a loss was not finite; no checkpoint is written of such a state.
    """
    main = states[0].accelerator.is_main_process
    if plan.watch.judge(states, start).ends:
        return True
    clock = Clock(start, plan.steps)
    with tqdm(
        total=plan.steps, initial=start, disable=not main, unit="step", dynamic_ncols=True
    ) as bar:
        for step in range(start + 1, plan.steps + 1):
            batch = batches.next()
            for state in states:
                advance(state, batch, step, plan)
            bar.update()
            last = step == plan.steps
            measured = bool(plan.evaluate_every) and (step % plan.evaluate_every == 0 or last)
            verdict = Verdict()
            if step % plan.log_every == 0 or measured or last:
                check_finite(states, step, plan.steps)
                with clock.aside():
                    extra = [evaluate(state) if measured else {} for state in states]
                report(states, step, plan.steps, clock, bar, rows_of(batch), extra)
                verdict = plan.watch.judge(states, step, extra) if measured else verdict
            last = last or verdict.ends
            stopping = processes.agree_to_stop(stop) and not last
            if step % plan.checkpoint_every == 0 or last or stopping or verdict.is_best:
                check_finite(states, step, plan.steps)
                save_checkpoints(states, batches, step, plan.keep_checkpoints)
            if stopping or verdict.is_best:
                for state in states if main else ():
                    status = "stopped" if stopping else "running"
                    state.set_status(status, step, plan.steps, **clock.estimate)
            if stopping or last:
                return not stopping
            if plan.sample_every and step % plan.sample_every == 0:
                check_finite(states, step, plan.steps)
                with clock.aside():
                    for state in states:
                        sample(state, step)
    return True


def advance(state: TrainState, batch: Batch, step: int, plan: Plan) -> None:
    """Take one optimizer step, without waiting for the device."""
    accelerator = state.accelerator
    callbacks = _callbacks(state)
    for callback in callbacks:
        callback.before_step(step)
    loss = torch.zeros((), device=accelerator.device)
    for left, piece in _pieces(_share(batch, accelerator), plan.accumulate):
        # Processes reduce their gradients only once, with the last micro-batch.
        with accelerator.no_sync(state.model) if left else contextlib.nullcontext():
            share = state.model(**piece) / plan.accumulate
            accelerator.backward(share)
        loss += share.detach()
    norm = accelerator.clip_grad_norm_(state.parameters, plan.max_gradient_norm)
    state.optimizer.step()
    for callback in callbacks:
        callback.after_step(step)
    state.schedule.step()
    state.optimizer.zero_grad()
    state.loss_sum += loss
    if norm is not None:
        state.gradient_norm = norm.detach()
    bad = (state.first_bad_step < 0) & ~torch.isfinite(loss)
    state.first_bad_step = torch.where(bad, step, state.first_bad_step)


def rows_of(batch: Batch) -> int:
    """Return the number of examples in a batch."""
    return len(next(iter(batch.values())))


def _callbacks(state: TrainState) -> list[StepCallback]:
    """Return the callbacks of a step in order: the task's, the method's, the average's."""
    averages = [] if state.average is None else [state.average]
    return [*state.task_callbacks, state.rules, *averages]


def _pieces(share: Batch, count: int) -> Iterator[tuple[int, Batch]]:
    """Yield equal micro-batches, each with the number of those that follow.

    The loss is a mean over examples, so the mean of the micro-batches' losses is the batch's.
    """
    rows = rows_of(share)
    assert rows % count == 0, f"a batch of {rows} cannot be split into {count} equal parts"
    cut = {name: tensor.chunk(count) for name, tensor in share.items()}
    for number in range(count):
        yield count - 1 - number, {name: pieces[number] for name, pieces in cut.items()}


def _share(batch: Batch, accelerator: Accelerator) -> Batch:
    """Return this process's equal share of the global batch, on its device."""
    count, index = accelerator.num_processes, accelerator.process_index
    rows = rows_of(batch)
    if rows % count:
        raise StudioError(f"a batch of {rows} cannot be split equally among {count} processes.")
    return {
        name: tensor.chunk(count)[index].to(accelerator.device, non_blocking=True)
        for name, tensor in batch.items()
    }
