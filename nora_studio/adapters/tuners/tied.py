"""Tied-LoRA (arXiv:2311.09578): one pair of factors for all layers of a kind.

The update of layer l is `scale * diag(v_l) up diag(u_l) down`. This is the variant that the paper
calls TL6 and finds best: `up` and `down` are trained and tied, `u` and `v` trained for each layer
(TL5 fixes u and v at 1, TL1-TL4 freeze one factor or both). Layers are of one kind if they have the
same shape and the same last names without indices, such as "attn1.to_q" in every block. `down`
starts at random and `up` at zero, as in LoRA, u and v at one: the update starts at exactly zero.
"""

import math
from typing import Any

from torch import Tensor, nn

from nora_studio.adapters.tuners.config import TiedLoraConfig
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.adapters.tuners.model import LowRankModel

KIND_NAMES = 2
"""Number of a layer's last names, without indices, that determine its kind."""


class TiedLoraLinear(LowRankLinear):
    """A frozen linear layer with Tied-LoRA updates."""

    adapter_layer_names = ("tied_lora_up", "tied_lora_down", "tied_lora_u", "tied_lora_v")
    other_param_names = ("low_rank_dropout", "r", "alpha", "scaling")

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer, name)
        self.kind = kind_of(name, self.out_features, self.in_features)
        self.tied_lora_up = nn.ParameterDict()  # (out_features, rank), of the kind
        self.tied_lora_down = nn.ParameterDict()  # (rank, in_features), of the kind
        self.tied_lora_u = nn.ParameterDict()  # (rank,)
        self.tied_lora_v = nn.ParameterDict()  # (out_features,)

    def update_layer(
        self, adapter_name: str, config: TiedLoraConfig, owner: "TiedLoraLinear | None"
    ) -> None:
        """Create an adapter's scalings, and its factors unless the kind's `owner` has them."""
        self.tied_lora_u[adapter_name] = self.zeros(config.r)
        self.tied_lora_v[adapter_name] = self.zeros(self.out_features)
        for scaling in (self.tied_lora_u, self.tied_lora_v):
            nn.init.ones_(scaling[adapter_name])
        if owner is not None:
            # The containers themselves are shared, so that code that replaces a tensor in one (a
            # loader, a move to another device) does so for the whole kind.
            self.tied_lora_up, self.tied_lora_down = owner.tied_lora_up, owner.tied_lora_down
        if adapter_name not in self.tied_lora_up:
            self.tied_lora_up[adapter_name] = self.zeros(self.out_features, config.r)
            self.tied_lora_down[adapter_name] = self.zeros(config.r, self.in_features)
            if config.init_weights and not self.tied_lora_down[adapter_name].is_meta:
                nn.init.kaiming_uniform_(self.tied_lora_down[adapter_name], a=math.sqrt(5))

    def factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """Return `diag(v) up` (out_features, rank) and `diag(u) down` (rank, in_features)."""
        up = self.tied_lora_v[adapter_name][:, None] * self.tied_lora_up[adapter_name]
        return up, self.tied_lora_u[adapter_name][:, None] * self.tied_lora_down[adapter_name]


class TiedLoraModel(LowRankModel):
    """The PEFT tuner of Tied-LoRA."""

    prefix = "tied_lora_"
    tuner_layer_cls = TiedLoraLinear

    def create_factors(self, layer: Any, adapter_name: str, config: Any, name: str) -> None:
        """Create an adapter's scalings on one layer, and its factors on a kind's first layer."""
        if "owners" not in self.__dict__:
            self.owners = owners_of(self.model)
        layer.update_layer(adapter_name, config, self.owners.get(layer.kind))
        self.owners.setdefault(layer.kind, layer)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Keep a kind's factors under its first layer only: safetensors saves no tensor twice."""
        chosen = super()._get_adapter_state_dict(
            model, config, adapter_name, state_dict, unwanted_adapter_names
        )
        repeated = _find_repeated(model, adapter_name)
        return {key: tensor for key, tensor in chosen.items() if key not in repeated}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Copy a kind's factors to all its layers' keys, so that PEFT misses none."""
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        for key, owner_key in _find_repeated(model, adapter_name).items():
            if owner_key in found:
                found[key] = found[owner_key]
        return found


def _find_repeated(model: nn.Module, adapter_name: str) -> dict[str, str]:
    """Map keys of factors that another layer owns to the owner's keys."""
    owners: dict[str, str] = {}
    repeated: dict[str, str] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, TiedLoraLinear):
            owner = owners.setdefault(layer.kind, name)
            for factor in ("tied_lora_up", "tied_lora_down") if owner != name else ():
                repeated[f"{name}.{factor}.{adapter_name}"] = f"{owner}.{factor}.{adapter_name}"
    return repeated


def owners_of(model: nn.Module) -> dict[str, TiedLoraLinear]:
    """Return the first layer of every kind, by kind."""
    owners: dict[str, TiedLoraLinear] = {}
    for layer in model.modules():
        if isinstance(layer, TiedLoraLinear):
            owners.setdefault(layer.kind, layer)
    return owners


def kind_of(name: str, out_features: int, in_features: int) -> str:
    """Return the kind by which a layer shares its factors: "attn1.to_q 640x640"."""
    names = [piece for piece in name.split(".") if not piece.isdigit()]
    return f"{'.'.join(names[-KIND_NAMES:])} {out_features}x{in_features}"
