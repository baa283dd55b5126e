"""Record the mean absolute input of each linear layer of SDXL's adapted parts."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.nora.calibration import record_mean_abs_inputs
from nora_studio.sdxl.diffusion import Denoising
from nora_studio.sdxl.models import parts_of
from nora_studio.tasks.dreambooth.step import DreamboothStep, PromptEncoding
from nora_studio.trainer.train_state import Batch, BatchSource


def first_batch(batches: BatchSource) -> Batch:
    """Return the next batch without advancing the source."""
    before = batches.state()
    batch = batches.next()
    batches.restore(before)
    return batch


@torch.no_grad()
def record_activations(
    pipe: StableDiffusionXLPipeline,
    text: PromptEncoding,
    process: Denoising,
    parts: Sequence[str],
    batch: Batch,
) -> dict[str, dict[str, Tensor]]:
    """Run one training step's forward pass on the base, and record its linear layers' inputs.

    The text encoders among `parts` encode the batch's prompts; the UNet gets its noisy latents.

    Returns:
        Part -> layer -> mean |x| per input channel, for `NoraConfig.mean_abs_inputs`.
    """
    base = parts_of(pipe)
    encoders = {part: base[part] for part in parts if part != "unet"}
    modes = {part: module.training for part, module in base.items()}
    step = DreamboothStep(base["unet"], encoders, text, process).eval()
    layers = {
        f"{part} {name}": layer
        for part in parts
        for name, layer in base[part].named_modules()
        if isinstance(layer, nn.Linear)
    }
    with record_mean_abs_inputs(layers) as means:
        step(**{name: tensor.to(pipe.device) for name, tensor in batch.items()})
    for part, module in base.items():
        module.train(modes[part])
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for label, mean in means.items():
        part, _, name = label.partition(" ")
        found[part][name] = mean
    return found
