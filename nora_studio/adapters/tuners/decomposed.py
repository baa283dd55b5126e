"""PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775), with the base weights unchanged.

Both start a LoRA from a part of the weight itself and subtract that part from the base: training
starts at `(W - scale B0 A0) + scale B0 A0`. PEFT rewrites the base weight for it, which rounds it,
and the file is then useless on the original base. Here W stays as it is and the start is subtracted
from the update, `scale (B A - B0 A0)`: the same function of B and A, with the same gradients, exact
at the start and on reload. It is computed as `(B - B0) A + B0 (A - A0)`, which is the same but
starts at zero bit for bit and is never the difference of two large products.
"""

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from nora_studio.adapters.tuners.config import DecomposedConfig
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.adapters.tuners.model import LowRankModel
from nora_studio.adapters.tuners.xs import leading_factors
from nora_studio.errors import StudioError


class DecomposedLinear(LowRankLinear):
    """A frozen linear layer with updates that start from a part of its weight."""

    adapter_layer_names = ("decomposed_lora_up", "decomposed_lora_down")
    other_param_names = (
        "decomposed_lora_up_start",
        "decomposed_lora_down_start",
        "low_rank_dropout",
        "r",
        "alpha",
        "scaling",
    )

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer, name)
        self.decomposed_lora_up = nn.ParameterDict()  # (out_features, rank)
        self.decomposed_lora_down = nn.ParameterDict()  # (rank, in_features)
        self.decomposed_lora_up_start = BufferDict(persistent=True)
        self.decomposed_lora_down_start = BufferDict(persistent=True)

    def update_layer(self, adapter_name: str, config: DecomposedConfig, name: str) -> None:
        """Create an adapter's factors from the weight.

        Raises:
            StudioError: The weight is all zeros or not finite.
        """
        self.decomposed_lora_up[adapter_name] = self.zeros(self.out_features, config.r)
        self.decomposed_lora_down[adapter_name] = self.zeros(config.r, self.in_features)
        up = self.decomposed_lora_up[adapter_name]
        down = self.decomposed_lora_down[adapter_name]
        if config.init_weights and not up.is_meta:
            scale = self.scaling[adapter_name]
            start_up, start_down = _start(self.get_base_weight(), config, scale, name)
            with torch.no_grad():
                up.copy_(start_up)
                down.copy_(start_down)
            starts = up.detach().clone(), down.detach().clone()
        else:
            like = self.zeros(0)
            like = like.new_empty(0, device=self.get_base_weight().device)
            starts = (
                self.nan_tensor(self.out_features, config.r, like=like),
                self.nan_tensor(config.r, self.in_features, like=like),
            )
        self.decomposed_lora_up_start[adapter_name] = starts[0]
        self.decomposed_lora_down_start[adapter_name] = starts[1]

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return `[B - B0, B0]` (out_features, 2 rank), `[A; A - A0]` (2 rank, in_features)."""
        up = self.decomposed_lora_up[adapter_name]
        down = self.decomposed_lora_down[adapter_name]
        start_up: Tensor = self.decomposed_lora_up_start[adapter_name]  # pyright: ignore
        start_down: Tensor = self.decomposed_lora_down_start[adapter_name]  # pyright: ignore
        return torch.cat([up - start_up, start_up], 1), torch.cat([down, down - start_down])


class DecomposedModel(LowRankModel):
    """The PEFT tuner of PiSSA and OLoRA."""

    prefix = "decomposed_lora_"
    tuner_layer_cls = DecomposedLinear


def _start(
    weight: Tensor, config: DecomposedConfig, scale: float, name: str
) -> tuple[Tensor, Tensor]:  # (out_features, rank), (rank, in_features)
    if config.start == "pissa":
        up, singular, down = leading_factors(weight, config.r, name)
        root = (singular / scale).sqrt()
        return up * root, root[:, None] * down
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if not bool(torch.isfinite(wide).all()) or not bool(wide.any()):
        raise StudioError(
            f"{name}: the {weight.shape[0]}x{weight.shape[1]} weight is all zeros or not finite, "
            "so an adapter that starts from it would never learn. Remove it from the targets."
        )
    columns, rows = torch.linalg.qr(wide)
    return columns[:, : config.r], rows[: config.r]
