"""Checkpoints of runs in training: saved together, and set back to."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nora_studio.runs import processes
from nora_studio.runs.curves import Curve
from nora_studio.trainer.averages import copies, set_weights
from nora_studio.trainer.checkpoints import TrainingState, generator_states, read_state, write_state
from nora_studio.trainer.trainee import BatchSource, Trainee


def save_checkpoints(trainees: list[Trainee], batches: BatchSource, step: int, keep: int) -> None:
    """Save every trainee as of a step, and only then let old checkpoints go.

    A crash between two twins so leaves them a checkpoint in common, even if one alone is kept.
    """
    generators = _every_generator()
    sums = [torch.stack(processes.all_gather(trainee.loss_sum.cpu())) for trainee in trainees]

    def save() -> None:
        for trainee, loss_sums in zip(trainees, sums, strict=True):
            _save_checkpoint(trainee, batches, step, generators, loss_sums)
        for trainee in trainees:
            best = trainee.best
            trainee.run.keep_newest(keep, None if best is None else best.step)

    processes.on_main(save)


def _every_generator() -> dict[str, Tensor]:
    """Gather every process's generator states; names of others than the main's have a rank."""
    found: dict[str, Tensor] = {}
    for name, own in generator_states().items():
        for rank, state in enumerate(processes.all_gather(own)):
            found[f"{name}.{rank}" if rank else name] = state
    return found


def _save_checkpoint(
    trainee: Trainee,
    batches: BatchSource,
    step: int,
    generators: dict[str, Tensor],
    loss_sums: Tensor,
) -> None:
    """Save the adapter and the training state as of a step."""
    scaler = trainee.accelerator.scaler
    state = TrainingState(
        step=step,
        optimizer=trainee.optimizer.state_dict(),
        schedule=trainee.schedule.state_dict(),
        batches=batches.state(),
        scaler=scaler.state_dict() if scaler is not None else {},
        rules=trainee.rules.state(),
        generators=generators,
        # The adapter's files hold what is served; without an average, that is all there is.
        weights=[] if trainee.average is None else copies(trainee.parameters),
        loss_sums=loss_sums,
        logged_step=trainee.logged_step,
    )

    def write(folder: Path) -> None:
        with trainee.served():
            trainee.write_adapter(folder, step)
        write_state(folder, state)

    trainee.run.save_checkpoint(step, write)


def restore(trainees: list[Trainee], batches: BatchSource, step: int) -> None:
    """Set every trainee and the draws to their common checkpoint."""
    for trainee in trainees:
        batches.restore(set_back(trainee, step).batches)
    processes.on_main(lambda: [trainee.run.forget_after(step) for trainee in trainees])
    for trainee in trainees:
        trainee.curve = Curve.of_log(trainee.run.read_log())


def set_back(trainee: Trainee, step: int) -> TrainingState:
    """Make a trainee what it was after a step that it has a checkpoint of."""
    folder = trainee.run.checkpoints()[step]
    state = read_state(folder, processes.rank())
    trainee.load_adapter(folder)
    if trainee.average is not None:
        trainee.average.restore(step)
        set_weights(trainee.parameters, state.weights)
    trainee.optimizer.load_state_dict(state.optimizer)
    trainee.schedule.load_state_dict(state.schedule)
    _set_rates(trainee.schedule)
    trainee.rules.restore(state.rules)
    if trainee.accelerator.scaler is not None and state.scaler:
        trainee.accelerator.scaler.load_state_dict(state.scaler)
    if state.loss_sums is not None:
        # With another number of processes, the mean of all is what their shares come to.
        same = len(state.loss_sums) == processes.count()
        own = state.loss_sums[processes.rank()] if same else state.loss_sums.mean()
        trainee.loss_sum.copy_(own)
    trainee.logged_step = state.logged_step
    return state


def _set_rates(schedule: Any) -> None:
    """Set the rates that a schedule has at its step: those restored are of the plan as it was."""
    # Without a step, which torch expects an optimizer's before. Every schedule here is a LambdaLR.
    shares = (share(schedule.last_epoch) for share in schedule.lr_lambdas)
    rates = [peak * share for peak, share in zip(schedule.base_lrs, shares, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
