"""The training loop: step, log, checkpoint, stop. It is the same for every task."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from nora_studio.runs import processes
from nora_studio.runs.stop import StopRequest
from nora_studio.trainer.early_stop import EarlyStopping, Verdict
from nora_studio.trainer.progress import Clock, check_finite, report
from nora_studio.trainer.saving import save_checkpoints
from nora_studio.trainer.step import Stepper, rows_of
from nora_studio.trainer.train_state import BatchSource, TrainState


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
    capture: bool
    """Whether steps are CUDA graphs where they can be."""


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
    steppers = steppers_of(states, plan, tqdm.write)
    clock = Clock(start, plan.steps)
    shown = {"unit": "step", "dynamic_ncols": True}
    with tqdm(total=plan.steps, initial=start, disable=not main, **shown) as bar:
        for step in range(start + 1, plan.steps + 1):
            batch = batches.next()
            for stepper in steppers:
                stepper.advance(batch, step)
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


def steppers_of(
    states: list[TrainState], plan: Plan, say: Callable[[str], object] = print
) -> list[Stepper]:
    """Return what takes each run's steps, once their weights are as they are trained from.

    Args:
        say: Called with one line that says why a run's steps are eager on a GPU.
    """
    on_gpu = states[0].accelerator.device.type == "cuda"
    pool = torch.cuda.graph_pool_handle() if plan.capture and on_gpu else None
    return [Stepper(state, plan.accumulate, plan.max_gradient_norm, pool, say) for state in states]
