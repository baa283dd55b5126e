"""Report the progress of a training: log lines, status, terminal, and losses not finite."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn.utils import get_total_norm
from tqdm import tqdm

from nora_studio.adapters.methods.optimizers import learning_rates
from nora_studio.errors import StudioError
from nora_studio.runs import processes
from nora_studio.trainer.peak_memory import memory_gib
from nora_studio.trainer.train_state import TrainState


class Clock:
    """A clock for the seconds per step and the seconds left, from the start of this process."""

    def __init__(self, start: int, steps: int) -> None:
        self.start, self.steps = start, steps
        self.began = self.last = time.monotonic()
        self.last_step = start
        self.elsewhere = 0.0
        self.estimate: dict[str, float] = {}
        """Seconds left as of the last lap, by the name in a status."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the time of a block out of the seconds per step; it counts for the seconds left."""
        began = time.monotonic()
        yield
        self.elsewhere += time.monotonic() - began

    def lap(self, step: int) -> float:
        """Return the seconds per step since the last lap, and update the estimate of those left."""
        now = time.monotonic()
        pace = (now - self.last - self.elsewhere) / max(1, step - self.last_step)
        left = (now - self.began) / max(1, step - self.start) * (self.steps - step)
        self.last, self.last_step, self.elsewhere = now, step, 0.0
        self.estimate = {"seconds_left": round(left, 1)}
        return pace


def report(
    states: list[TrainState],
    step: int,
    steps: int,
    clock: Clock,
    bar: tqdm,
    batch_size: int,
    extra: list[dict[str, float]],
) -> None:
    """Read the losses from the device, write each run's log line and update the progress bar."""
    pace = clock.lap(step)
    words = []
    for state, measured in zip(states, extra, strict=True):
        total: Tensor = state.accelerator.reduce(state.loss_sum, "mean")  # pyright: ignore
        loss = (total / max(1, step - state.logged_step)).item()
        first = {} if state.logged_step else {"first_step": state.first_step}
        state.logged_step = step
        state.loss_sum.zero_()
        memory = processes.all_reduce_max(memory_gib(state.accelerator.device))
        if not state.accelerator.is_main_process:
            continue
        state.log(
            step,
            loss=round(loss, 6),
            gradient_norm=round(state.gradient_norm.item(), 6),
            weight_norm=round(get_total_norm(state.parameters).item(), 6),
            **learning_rates(state.optimizer),
            **(first if state.first_step else {}),
            seconds_per_step=round(pace, 4),
            **{f"{state.rows}_per_second": round(batch_size / pace, 3)},
            memory_gib=round(memory, 3),
            **{name: round(value, 6) for name, value in measured.items()},
        )
        state.set_status("running", step, steps, **clock.estimate)
        words.append(f"{state.label} {loss:.4f}")
        bar.set_postfix_str(f"loss {', '.join(words)}; {memory:.1f} GiB", refresh=False)


def check_finite(states: list[TrainState], now: int, steps: int) -> None:
    """Stop after a loss that was not finite, and mark the runs as failed.

    Raises:
        StudioError: a loss was not finite; the message names the step and the likely cause.
    """
    for state in states:
        found = int(state.first_bad_step.item())
        # The loss may be bad on one process only; all of them must stop.
        first = -processes.all_reduce_max(-found if found >= 0 else -math.inf)
        if math.isinf(first):
            continue
        step = int(first)
        if state.accelerator.mixed_precision == "fp16":
            cause = "float16 overflowed; use --precision bf16 or fp32"
        elif step == 1:
            cause = "the base model or its data hold NaN, before any training"
        else:
            cause = "the learning rate is too high for this method; try a third of it"
        problem = f"{state.label}: the loss is not finite at step {step}. Likely cause: {cause}."
        if state.accelerator.is_main_process:
            for stopped in states:
                stopped.run.set_status("failed", now, steps, error=problem)
            raise StudioError(f"{problem} Earlier checkpoints in {state.run.folder} are kept.")
        raise SystemExit(2)  # The main process prints the reason.
