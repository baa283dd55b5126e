"""Freeze the text encoders after the first steps of a run (`--text-encoder-steps`)."""

import torch
from typing_extensions import override

from nora_studio.adapters.methods.optimizers import drop_state
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.trainer.averages import copies, set_weights
from nora_studio.trainer.train_state import StepCallback, TrainState


class FreezeTextEncoders(StepCallback):
    """A callback that freezes a run's text encoders before a step (`freeze_text_encoders`)."""

    def __init__(self, state: TrainState, until: int) -> None:
        self.state, self.until = state, until

    @override
    def before_step(self, step: int) -> None:
        freeze_text_encoders(self.state, step, self.until)

    @override
    def after_step(self, step: int) -> None: ...


@torch.no_grad()
def freeze_text_encoders(state: TrainState, step: int, until: int) -> None:
    """Freeze the text encoders before the first step that does not train them.

    Their adapters are set to the average, if there is one, so that the UNet is trained with the
    text conditioning that previews and the saved adapter use. The encoders' output is computed
    once, without dropout, and kept.

    Args:
        until: The last step that trains them.
    """
    module: DreamboothStep = state.accelerator.unwrap_model(state.model)
    if step <= until or module.encoders_frozen or not len(module.encoders):
        return
    adapters = [parameter for parameter in module.encoders.parameters() if parameter.requires_grad]
    with state.averaged():
        averaged = copies(adapters)
    set_weights(adapters, averaged)
    for parameter in adapters:
        parameter.requires_grad_(False)
        parameter.grad = None
    drop_state(state.optimizer, adapters)
    # A twin may have moved the shared weights to the CPU.
    module.encoders.to(state.accelerator.device)
    with state.accelerator.autocast():
        module.freeze_encoders()
    if state.accelerator.num_processes == 1:  # DDP needs all modules on one device.
        module.encoders.to("cpu")
