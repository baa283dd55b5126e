"""How a training tells where it is: log lines, status, the terminal, and a loss gone bad."""

import time
from typing import Any

from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.runs import memory_gib
from nora_studio.trainee import Trainee


class Clock:
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


def report(
    trainees: list[Trainee],
    step: int,
    steps: int,
    clock: Clock,
    bar: Any,
    batch_size: int,
    extra: list[dict[str, float]],
) -> None:
    """Read the losses back, write a log line for each run and tell the terminal."""
    check_finite(trainees, step, steps)
    pace, left = clock.lap(step)
    words = []
    for trainee, measured in zip(trainees, extra):
        total: Tensor = trainee.accelerator.reduce(trainee.loss_sum, "mean")  # pyright: ignore
        loss = (total / max(1, step - trainee.logged_step)).item()
        trainee.logged_step = step
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
        trainee.run.set_status("running", step, steps, seconds_left=round(left, 1))
        words.append(f"{trainee.label} {loss:.4f}")
        bar.set_postfix_str(f"loss {', '.join(words)}; {memory:.1f} GiB", refresh=False)


def check_finite(trainees: list[Trainee], now: int, steps: int) -> None:
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
