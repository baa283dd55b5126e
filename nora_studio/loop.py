"""The training loop: step, clip, log, checkpoint, stop. It knows no task, of a method its rules."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from nora_studio.checkpoints import TrainingState, read_state, write_state
from nora_studio.errors import StudioError
from nora_studio.methods import StepRules
from nora_studio.runs import Run, memory_gib
from nora_studio.stop import StopRequest

Batch = dict[str, Tensor]


class Draws(Protocol):
    """A source of training batches that can be saved and restored."""

    def next(self) -> Batch:
        """One global batch on the CPU, batch first in every tensor."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...


@dataclass
class Trainee:
    """One run in training. Twins are trainees of one loop: same batches, own everything else."""

    label: str
    run: Run
    accelerator: Accelerator
    """Its own, so that one twin's gradient scaler never touches the other's."""
    model: nn.Module
    """Prepared; its forward takes a batch and returns the loss."""
    optimizer: Any
    schedule: Any
    parameters: list[nn.Parameter]
    write_adapter: Callable[[Path, int], None]
    """Writes the adapter as of a step into an existing folder."""
    load_adapter: Callable[[Path], None]
    """Sets the trained weights from a checkpoint folder."""
    rules: StepRules
    """What the method does around each step."""
    loss_sum: Tensor = field(init=False)
    gradient_norm: Tensor = field(init=False)
    first_bad_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = self.accelerator.device
        self.loss_sum = torch.zeros((), device=device)
        self.gradient_norm = torch.zeros((), device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)


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


def train(
    trainees: list[Trainee],
    draws: Draws,
    plan: Plan,
    stop: StopRequest,
    sample: Callable[[Trainee, int], None],
    evaluate: Callable[[Trainee], dict[str, float]],
    start: int = 0,
) -> bool:
    """Train every trainee on the same batches, step by step.

    Args:
        start: Steps done already.
        sample: Draws a trainee's fixed-seed picture after a step.
        evaluate: Measures a trainee; what it gives goes into the log by name.

    Returns:
        Whether the plan was finished; False after a stop, with checkpoints written.

    Raises:
        StudioError: a loss was not finite; nothing is saved of that state.
    """
    main = trainees[0].accelerator.is_main_process
    clock = _Clock(start, plan.steps)
    with tqdm(
        total=plan.steps, initial=start, disable=not main, unit="step", dynamic_ncols=True
    ) as bar:
        for step in range(start + 1, plan.steps + 1):
            batch = draws.next()
            for trainee in trainees:
                _advance(trainee, batch, step, plan.max_gradient_norm)
            bar.update()
            last = step == plan.steps
            measured = bool(plan.evaluate_every) and (step % plan.evaluate_every == 0 or last)
            if step % plan.log_every == 0 or measured or last:
                extra = [evaluate(trainee) if measured and main else {} for trainee in trainees]
                _report(trainees, step, plan, clock, bar, len(batch["timesteps"]), extra)
            stopping = stop.signal is not None and not last  # Read once: it may come any moment.
            if step % plan.checkpoint_every == 0 or last or stopping:
                _check_finite(trainees, step, plan.steps)
                save_checkpoints(trainees, draws, step, plan.keep_checkpoints)
            if stopping:
                for trainee in trainees:
                    trainee.run.set_status("stopped", step, plan.steps)
                return False
            if plan.sample_every and step % plan.sample_every == 0 and not last and main:
                for trainee in trainees:
                    sample(trainee, step)
    return True


def _advance(trainee: Trainee, batch: Batch, step: int, max_norm: float) -> None:
    """One optimizer step. Nothing here waits for the device."""
    accelerator = trainee.accelerator
    share = _share(batch, accelerator)
    trainee.rules.before(step)
    loss = trainee.model(**share)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(trainee.parameters, max_norm)
    trainee.optimizer.step()
    trainee.rules.after(step)
    trainee.schedule.step()
    trainee.optimizer.zero_grad()
    loss = loss.detach()
    trainee.loss_sum += loss
    if norm is not None:
        trainee.gradient_norm = norm.detach()
    bad = (trainee.first_bad_step < 0) & ~torch.isfinite(loss)
    trainee.first_bad_step = torch.where(bad, step, trainee.first_bad_step)


def _share(batch: Batch, accelerator: Accelerator) -> Batch:
    """This process's equal share of the global batch, on its device."""
    count, index = accelerator.num_processes, accelerator.process_index
    return {
        name: tensor.chunk(count)[index].to(accelerator.device, non_blocking=True)
        for name, tensor in batch.items()
    }


class _Clock:
    """Seconds gone and left, counted from where this process started."""

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps
        self.began = self.last = time.monotonic()
        self.last_step = start

    def lap(self, step: int) -> tuple[float, float]:
        """Seconds a step since the last lap, and seconds left at the average pace."""
        now = time.monotonic()
        pace = (now - self.last) / max(1, step - self.last_step)
        left = (now - self.began) / max(1, step - self.start) * (self.steps - step)
        self.last, self.last_step = now, step
        return pace, left


def _report(
    trainees: list[Trainee],
    step: int,
    plan: Plan,
    clock: _Clock,
    bar: Any,
    batch_size: int,
    extra: list[dict[str, float]],
) -> None:
    """Read the losses back, write a log line for each run and tell the terminal."""
    _check_finite(trainees, step, plan.steps)
    logged = step - clock.last_step
    pace, left = clock.lap(step)
    words = []
    for trainee, measured in zip(trainees, extra):
        total: Tensor = trainee.accelerator.reduce(trainee.loss_sum, "mean")  # pyright: ignore
        loss = (total / max(1, logged)).item()
        trainee.loss_sum.zero_()
        if not trainee.accelerator.is_main_process:
            continue
        groups = trainee.optimizer.param_groups
        memory = memory_gib(trainee.accelerator.device)
        trainee.run.log(
            step,
            loss=round(loss, 6),
            gradient_norm=round(trainee.gradient_norm.item(), 6),
            learning_rate={group["name"]: group["lr"] for group in groups},
            seconds_per_step=round(pace, 4),
            images_per_second=round(batch_size / pace, 3),
            memory_gib=round(memory, 3),
            **{name: round(value, 6) for name, value in measured.items()},
        )
        trainee.run.set_status("running", step, plan.steps, seconds_left=round(left, 1))
        words.append(f"{trainee.label} {loss:.4f}")
        bar.set_postfix_str(f"loss {', '.join(words)}; {memory:.1f} GiB", refresh=False)


def _check_finite(trainees: list[Trainee], now: int, steps: int) -> None:
    for trainee in trainees:
        step = int(trainee.first_bad_step.item())
        if step < 0:
            continue
        if trainee.accelerator.mixed_precision == "fp16":
            cause = "float16 overflowed; use --precision bf16 or fp32"
        elif step == 1:
            cause = "the base model or a photo's latents hold NaN, before any training"
        else:
            cause = "the learning rate is too high for this method; try a third of it"
        problem = f"{trainee.label}: the loss is not finite at step {step}. Likely cause: {cause}."
        if trainee.accelerator.is_main_process:
            for stopped in trainees:
                stopped.run.set_status("failed", now, steps, error=problem)
        raise StudioError(f"{problem} Earlier checkpoints in {trainee.run.folder} are kept.")


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
        trainee.run.forget_after(step)
