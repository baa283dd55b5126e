"""Checkpoints of runs in training: saved together, and set back to."""

from pathlib import Path

from torch import Tensor

from nora_studio.checkpoints import TrainingState, read_state, write_state
from nora_studio.trainee import Draws, Trainee


def save_checkpoints(trainees: list[Trainee], draws: Draws, step: int, keep: int) -> None:
    """Save every trainee as of a step, and only then let old checkpoints go.

    A crash between two twins so leaves them a checkpoint in common, even if one alone is kept.
    """
    for trainee in trainees:
        _save_checkpoint(trainee, draws, step)
    for trainee in trainees:
        if trainee.accelerator.is_main_process:
            trainee.run.keep_newest(keep)


def _save_checkpoint(trainee: Trainee, draws: Draws, step: int) -> None:
    """Save the adapter and the training state as of a step (main process only)."""
    trainee.accelerator.wait_for_everyone()
    loss_sum: Tensor = trainee.accelerator.reduce(trainee.loss_sum, "mean")  # pyright: ignore
    if not trainee.accelerator.is_main_process:
        return
    scaler = trainee.accelerator.scaler
    state = TrainingState(
        step=step,
        optimizer=trainee.optimizer.state_dict(),
        schedule=trainee.schedule.state_dict(),
        draws=draws.state(),
        scaler=scaler.state_dict() if scaler is not None else {},
        rules=trainee.rules.state(),
        loss_sum=loss_sum,
        logged_step=trainee.logged_step,
    )

    def write(folder: Path) -> None:
        trainee.write_adapter(folder, step)
        write_state(folder, state)

    trainee.run.save_checkpoint(step, write)


def restore(trainees: list[Trainee], draws: Draws, step: int) -> None:
    """Set every trainee and the draws to their common checkpoint."""
    for trainee in trainees:
        folder = trainee.run.checkpoints()[step]
        state = read_state(folder)
        trainee.load_adapter(folder)
        trainee.optimizer.load_state_dict(state.optimizer)
        trainee.schedule.load_state_dict(state.schedule)
        trainee.rules.restore(state.rules)
        if trainee.accelerator.scaler is not None and state.scaler:
            trainee.accelerator.scaler.load_state_dict(state.scaler)
        draws.restore(state.draws)
        if state.loss_sum is not None:
            trainee.loss_sum.copy_(state.loss_sum)
        trainee.logged_step = state.logged_step
        if trainee.accelerator.is_main_process:
            trainee.run.forget_after(step)
