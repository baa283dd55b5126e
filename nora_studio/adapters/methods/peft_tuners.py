"""PEFT's tuners on an adapted module: its layers, the tuner itself, DoRA's magnitudes."""

from collections.abc import Iterable
from typing import Any

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """Return the adapted layers of a model by name."""
    return {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }


def adapter_config(model: nn.Module, adapter_name: str) -> Any:
    """Return the PEFT configuration of an adapter on a module."""
    return model.peft_config[adapter_name]  # pyright: ignore


def rebuild_tuner(model: nn.Module, adapter_name: str, shared: Iterable[str] = ()) -> BaseTuner:
    """Rebuild PEFT's tuner around an adapted model.

    It is an instance of PEFT's class, made without its `__init__`: nothing is injected or
    initialised again.

    Args:
        model: With the adapter on it.
        adapter_name: The name it was attached under.
        shared: Names of the state that the tuner's layers share, taken from one of them.
    """
    config = adapter_config(model, adapter_name)
    tuner_class = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    tuner = tuner_class.__new__(tuner_class)
    nn.Module.__init__(tuner)
    tuner.model = model
    tuner.peft_config = model.peft_config  # pyright: ignore
    tuner.active_adapter = adapter_name
    layer = next(iter(tuner_layers(model).values()))
    for name in shared:
        setattr(tuner, name, getattr(layer, name))
    return tuner


def measure_magnitudes(model: nn.Module, adapter_name: str) -> None:
    """Compute DoRA's magnitudes again, since PEFT rounds them to a half-precision base's dtype.

    In the precision of the forward pass a new adapter then equals the base exactly.
    """
    for layer in tuner_layers(model).values():
        magnitude = layer.lora_magnitude_vector[adapter_name].weight  # pyright: ignore
        weight = dequantize_module_weight(layer.get_base_layer()).to(magnitude.dtype)
        magnitude.data = torch.linalg.norm(weight, dim=1).to(magnitude.dtype)


def scale_magnitude(layer: BaseTunerLayer, adapter_name: str, strength: float) -> None:
    """Interpolate DoRA's magnitudes: the weight's norms at strength 0, the trained ones at 1."""
    magnitude = layer.lora_magnitude_vector[adapter_name].weight  # pyright: ignore
    kept: dict[str, Tensor] = vars(layer).setdefault("trained_magnitudes", {})
    trained = kept.setdefault(adapter_name, magnitude.detach().clone())
    own = torch.linalg.norm(layer.get_base_weight().to(trained.dtype), dim=1)
    magnitude.data = own + strength * (trained - own)
