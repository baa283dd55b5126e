"""What the training loop works on: runs in training, and the batches that they share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nora_studio.methods import StepRules
from nora_studio.runs import Run

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
    """Of the losses since the last log line."""
    logged_step: int = 0
    """The step of that line."""
    gradient_norm: Tensor = field(init=False)
    first_bad_step: Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = self.accelerator.device
        self.loss_sum = torch.zeros((), device=device)
        self.gradient_norm = torch.zeros((), device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
