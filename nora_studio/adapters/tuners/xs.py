"""LoRA-XS (arXiv:2405.17604): one small trained matrix between frozen singular vectors.

The update is `scale * U_r R diag(S_r) V_r^T`, with `W = U S V^T` truncated to rank r: the singular
values are on the input side, as in the paper's A = U S for row vectors. Only R is trained; it is
r x r and starts from N(0, 1e-5 squared), so the update starts close to zero but not at zero.
"""

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import Tensor, nn

from nora_studio.adapters.tuners.config import LoraXsConfig
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.adapters.tuners.model import LowRankModel
from nora_studio.errors import StudioError
from nora_studio.nora.svd import truncated_svd


class LoraXsLinear(LowRankLinear):
    """A frozen linear layer with LoRA-XS updates."""

    adapter_layer_names = ("lora_xs_inner",)
    other_param_names = ("lora_xs_up", "lora_xs_down", "low_rank_dropout", "r", "alpha", "scaling")

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer, name)
        self.lora_xs_inner = nn.ParameterDict()  # (rank, rank)
        self.lora_xs_up = BufferDict(persistent=True)  # (out_features, rank)
        self.lora_xs_down = BufferDict(persistent=True)  # (rank, in_features)

    def update_layer(self, adapter_name: str, config: LoraXsConfig, name: str) -> None:
        """Create an adapter's frozen factors and its random trained one.

        Raises:
            StudioError: The weight is all zeros or not finite.
        """
        rank, weight = config.r, self.get_base_weight()
        self.lora_xs_inner[adapter_name] = self.zeros(rank, rank)
        inner = self.lora_xs_inner[adapter_name]
        if config.init_weights and not inner.is_meta:
            up, singular, down = leading_factors(weight, rank, name)
            down = singular[:, None] * down
            with torch.no_grad():
                inner.normal_(std=config.start_std)
        else:
            up = self.nan_tensor(self.out_features, rank, like=weight)
            down = self.nan_tensor(rank, self.in_features, like=weight)
        self.lora_xs_up[adapter_name] = up.to(weight.dtype)
        self.lora_xs_down[adapter_name] = down.to(weight.dtype)

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return `U R` (out_features, rank) and `diag(S) V^T` (rank, in_features)."""
        inner = self.lora_xs_inner[adapter_name]
        up: Tensor = self.lora_xs_up[adapter_name]  # pyright: ignore
        down: Tensor = self.lora_xs_down[adapter_name]  # pyright: ignore
        return up.to(inner.dtype) @ inner, down


class LoraXsModel(LowRankModel):
    """The PEFT tuner of LoRA-XS."""

    prefix = "lora_xs_"
    tuner_layer_cls = LoraXsLinear


def leading_factors(weight: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of a layer's weight, float32 or wider.

    Raises:
        StudioError: The weight is all zeros or not finite; the message has the layer's name.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    try:
        up, singular, down = truncated_svd(weight, rank, dtype)
    except StudioError as error:
        raise StudioError(f"{name}: {error} Or remove it from the targets.") from error
    if not bool(singular[0] > 0):
        raise StudioError(
            f"{name}: the {weight.shape[0]}x{weight.shape[1]} weight is all zeros, so an adapter "
            "that starts from it would never learn. Remove it from the targets."
        )
    return up, singular, down
