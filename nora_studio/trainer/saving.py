"""Save and restore the checkpoints of runs that train together."""

from pathlib import Path

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from nora_studio.runs import processes
from nora_studio.runs.curves import Curve
from nora_studio.trainer.averages import copies, set_weights
from nora_studio.trainer.checkpoints import (
    CheckpointState,
    generator_states,
    read_state,
    write_state,
)
from nora_studio.trainer.train_state import BatchSource, TrainState


def save_checkpoints(states: list[TrainState], batches: BatchSource, step: int, keep: int) -> None:
    """Save a checkpoint of every run, and only then remove old ones.

    So a crash between two twins leaves them a common checkpoint, even if each keeps only one.
    """
    generators = _every_generator()
    sums = [torch.stack(processes.all_gather(state.loss_sum.cpu())) for state in states]

    def save() -> None:
        for state, loss_sums in zip(states, sums, strict=True):
            _save_checkpoint(state, batches, step, generators, loss_sums)
        for state in states:
            best = state.best
            state.run.keep_newest(keep, None if best is None else best.step)

    processes.on_main(save)


def _every_generator() -> dict[str, Tensor]:
    """Gather every process's generator states, named with the rank except for rank 0."""
    found: dict[str, Tensor] = {}
    for name, own in generator_states().items():
        for rank, state in enumerate(processes.all_gather(own)):
            found[f"{name}.{rank}" if rank else name] = state
    return found


def _save_checkpoint(
    state: TrainState,
    batches: BatchSource,
    step: int,
    generators: dict[str, Tensor],
    loss_sums: Tensor,
) -> None:
    """Save the adapter and the training state as of a step."""
    scaler = state.accelerator.scaler
    checkpoint = CheckpointState(
        step=step,
        optimizer=state.optimizer.state_dict(),
        schedule=state.schedule.state_dict(),
        batches=batches.state(),
        scaler=scaler.state_dict() if scaler is not None else {},
        rules=state.rules.state(),
        generators=generators,
        # The adapter's files hold the average, if there is one, and else these weights.
        weights=[] if state.average is None else copies(state.parameters),
        loss_sums=loss_sums,
        logged_step=state.logged_step,
    )

    def write(folder: Path) -> None:
        with state.averaged():
            state.write_adapter(folder, step)
        write_state(folder, checkpoint)

    state.run.save_checkpoint(step, write)


def restore(states: list[TrainState], batches: BatchSource, step: int) -> None:
    """Restore every run and the batches from a common checkpoint."""
    for state in states:
        batches.restore(restore_run(state, step).batches)
    processes.on_main(lambda: [state.run.forget_after(step) for state in states])
    for state in states:
        state.curve = Curve.of_log(state.run.read_log())


def restore_run(state: TrainState, step: int) -> CheckpointState:
    """Restore a run from its checkpoint of a step, and return what the checkpoint holds."""
    folder = state.run.checkpoints()[step]
    checkpoint = read_state(folder, processes.rank())
    state.load_adapter(folder)
    if state.average is not None:
        state.average.restore(step)
        set_weights(state.parameters, checkpoint.weights)
    state.optimizer.load_state_dict(checkpoint.optimizer)
    state.schedule.load_state_dict(checkpoint.schedule)
    _set_rates(state.schedule)
    state.rules.restore(checkpoint.rules)
    if state.accelerator.scaler is not None and checkpoint.scaler:
        state.accelerator.scaler.load_state_dict(checkpoint.scaler)
    if checkpoint.loss_sums is not None:
        # With another number of processes, each takes the mean; the mean over processes is equal.
        same = len(checkpoint.loss_sums) == processes.count()
        own = checkpoint.loss_sums[processes.rank()] if same else checkpoint.loss_sums.mean()
        state.loss_sum.copy_(own)
    state.logged_step = checkpoint.logged_step
    return checkpoint


def _set_rates(schedule: LambdaLR) -> None:
    """Set a schedule's rates for its step; those restored are of the plan at the time of saving."""
    # Not by `step`, before which torch expects an optimizer step. All schedules are LambdaLRs.
    shares = (share(schedule.last_epoch) for share in schedule.lr_lambdas)
    rates = [peak * share for peak, share in zip(schedule.base_lrs, shares, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
