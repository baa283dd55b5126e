"""Text encoders that are trained for the first steps of a run only."""

import torch
from typing_extensions import override

from nora_studio.adapters.methods.optimizers import drop_state
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.trainer.averages import copies, set_weights
from nora_studio.trainer.train_state import StepCallback, TrainState


class FreezeTextEncoders(StepCallback):
    """A run's callback that freezes its text encoders before a step (`freeze_text_encoders`)."""

    def __init__(self, state: TrainState, until: int) -> None:
        self.state, self.until = state, until

    @override
    def before(self, step: int) -> None:
        freeze_text_encoders(self.state, step, self.until)

    @override
    def after(self, step: int) -> None: ...


@torch.no_grad()
def freeze_text_encoders(state: TrainState, step: int, until: int) -> None:
    """Before the first step that no longer trains the text encoders, make them constants.

    Their adapters stay as they are served, so that the UNet goes on with the very words that the
    run's pictures will be drawn by. Their output is computed once, without dropout, and kept.

    Args:
        until: The last step that trains them.
    """
    module: DreamboothStep = state.accelerator.unwrap_model(state.model)
    if step <= until or module.settled or not len(module.encoders):
        return
    adapters = [parameter for parameter in module.encoders.parameters() if parameter.requires_grad]
    with state.averaged():
        served = copies(adapters)
    set_weights(adapters, served)
    for parameter in adapters:
        parameter.requires_grad_(False)
        parameter.grad = None
    drop_state(state.optimizer, adapters)
    # A twin's may have taken the weights that they share from there.
    module.encoders.to(state.accelerator.device)
    with state.accelerator.autocast():
        module.settle()
    if state.accelerator.num_processes == 1:  # Data parallelism wants its modules in one place.
        module.encoders.to("cpu")
