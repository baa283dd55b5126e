"""The training loop: step, clip, log, checkpoint, stop. It knows no task, of a method its rules."""

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
    """When the loop does what; all in steps."""

    steps: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int
    """0: never within the loop."""
    evaluate_every: int
    """0: never."""
    max_gradient_norm: float
    watch: EarlyStopping
    """What measurements lead to."""
    accumulate: int
    """Pieces of each process's share of a batch."""


def train(
    states: list[TrainState],
    batches: BatchSource,
    plan: Plan,
    stop: StopRequest,
    sample: Callable[[TrainState, int], object],
    evaluate: Callable[[TrainState], dict[str, float]],
    start: int = 0,
) -> bool:
    """Train every state on the same batches, step by step.

    Args:
        start: Steps done already.
        sample: Generates a state's fixed-seed pictures after a step. Called on every process.
        evaluate: Measures a state; what it gives goes into the log by name. On every process.

    Returns:
        Whether the plan was finished, early or not; False after a stop, with checkpoints written.

    Raises:
        StudioError: a loss was not finite; nothing is saved of that state.
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
    """One optimizer step. Nothing here waits for the device."""
    accelerator = state.accelerator
    callbacks = _callbacks(state)
    for callback in callbacks:
        callback.before(step)
    loss = torch.zeros((), device=accelerator.device)
    for left, piece in _pieces(_share(batch, accelerator), plan.accumulate):
        # Processes add up their gradients only once, with the last piece.
        with accelerator.no_sync(state.model) if left else contextlib.nullcontext():
            share = state.model(**piece) / plan.accumulate
            accelerator.backward(share)
        loss += share.detach()
    norm = accelerator.clip_grad_norm_(state.parameters, plan.max_gradient_norm)
    state.optimizer.step()
    for callback in callbacks:
        callback.after(step)
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
    """All that happens around a step, in order: the task's, the method's, the average's."""
    averages = [] if state.average is None else [state.average]
    return [*state.task_callbacks, state.rules, *averages]


def _pieces(share: Batch, count: int) -> Iterator[tuple[int, Batch]]:
    """Equal pieces of a batch, each with the number of those that are left.

    The loss is a mean over examples, so the mean of the pieces' losses is the whole batch's.
    """
    rows = rows_of(share)
    assert rows % count == 0, f"a batch of {rows} does not fall into {count} equal pieces"
    cut = {name: tensor.chunk(count) for name, tensor in share.items()}
    for number in range(count):
        yield count - 1 - number, {name: pieces[number] for name, pieces in cut.items()}


def _share(batch: Batch, accelerator: Accelerator) -> Batch:
    """Return this process's equal share of the global batch, on its device."""
    count, index = accelerator.num_processes, accelerator.process_index
    rows = rows_of(batch)
    if rows % count:
        raise StudioError(f"a batch of {rows} is no equal share for each of {count} processes.")
    return {
        name: tensor.chunk(count)[index].to(accelerator.device, non_blocking=True)
        for name, tensor in batch.items()
    }
