"""PEFT's tuners on a plain module, in place: inject them, and read and set their tensors.

VeRA, VB-LoRA and RandLoRA keep state that all their layers share on the tuner object, which
`inject_adapter_in_model` discards. Every layer holds a reference to that state, so a tuner can be
rebuilt around an adapted module, and PEFT's own code then reads and writes files of these methods
as `PeftModel` does.
"""

import torch
from peft import get_peft_model_state_dict
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners._buffer_dict import BufferDict
from peft.utils import PeftType, set_peft_model_state_dict
from torch import Tensor, nn

from nora_studio.adapters.methods.peft_tuners import (
    adapter_config,
    rebuild_tuner,
    scale_magnitude,
    tuner_layers,
)
from nora_studio.adapters.methods.spec import Tuner
from nora_studio.adapters.methods.table import tuner_of_kind
from nora_studio.adapters.peft_names import PEFT_PREFIX
from nora_studio.adapters.tuners import LowRankLinear
from nora_studio.errors import StudioError
from nora_studio.nora import NoraLinear

HALF = (torch.float16, torch.bfloat16)


def inject(
    config: PeftConfig,
    model: nn.Module,
    adapter_name: str = "default",
    low_cpu_mem_usage: bool = False,
) -> None:
    """Inject a PEFT method into a model, in place, as `inject_adapter_in_model` but for any method.

    Args:
        config: With its `target_modules`.
        model: Any module, without shared-state adapters if the method is one of those.
        adapter_name: A name that no adapter on the model has.
        low_cpu_mem_usage: Leave trained factors on the meta device, for a file to fill.

    Raises:
        ValueError: PEFT refuses the configuration or the model.
    """
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
    tuner(model, config, adapter_name=adapter_name, low_cpu_mem_usage=low_cpu_mem_usage)


def _as_peft_model(model: nn.Module, adapter_name: str) -> nn.Module:
    """Return what PEFT's file functions expect: the model, or a module that wraps it."""
    config = adapter_config(model, adapter_name)
    shared = _tuner_record(config).shared
    if not shared:
        return model
    whole = nn.Module()
    whole.base_model = rebuild_tuner(model, adapter_name, shared)
    whole.peft_config = model.peft_config  # pyright: ignore
    return whole


def adapter_tensors(model: nn.Module, adapter_name: str = "default") -> dict[str, Tensor]:
    """Return all tensors of an adapter, frozen and shared ones too, by PEFT's keys without prefix.

    Shared state keeps PEFT's whole key ("base_model.vera_A"): it belongs to no layer.
    """
    # PEFT's default, "auto", would query the Hub whether the base has new embeddings.
    whole = _as_peft_model(model, adapter_name)
    found = get_peft_model_state_dict(whole, adapter_name=adapter_name, save_embedding_layers=False)
    config = adapter_config(model, adapter_name)
    shared = _tuner_record(config).shared
    return {
        name.removeprefix(PEFT_PREFIX): tensor
        for name, tensor in found.items()
        # PEFT lists RandLoRA's frozen pair under every layer: gigabytes of copies on SDXL.
        if not (name.startswith(PEFT_PREFIX) and name.rpartition(".")[2] in shared)
    }


def peft_key(name: str) -> str:
    """Return the key in a PEFT file of a tensor of `adapter_tensors`."""
    return name if name.startswith("base_model.") else PEFT_PREFIX + name


def set_adapter_tensors(
    model: nn.Module,
    tensors: dict[str, Tensor],
    adapter_name: str = "default",
    low_cpu_mem_usage: bool = False,
) -> None:
    """Set the tensors that `adapter_tensors` returned, bit for bit, on an attached adapter.

    Args:
        model: Adapted by the same configuration. Where its base is on the meta device, the
            adapter's tensors stay on the device of `tensors`.
        tensors: By the keys of `adapter_tensors`.
        adapter_name: The name it was attached under.
        low_cpu_mem_usage: As given to `inject`.
    """
    whole = _as_peft_model(model, adapter_name)
    if whole is not model:
        tensors = {peft_key(name): tensor for name, tensor in tensors.items()}
    if any(layer.get_base_layer().weight.is_meta for layer in tuner_layers(model).values()):
        # PEFT would move the tensors to the base's device, meta, and so lose them.
        config = adapter_config(model, adapter_name)
        tuner_class = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)]
        renamed = tuner_class._remap_adapter_state_dict_for_load(
            model=whole, config=config, adapter_name=adapter_name, state_dict=dict(tensors)
        )
        whole.load_state_dict(renamed, strict=False, assign=True)
        return
    for _ in range(2):
        set_peft_model_state_dict(whole, tensors, adapter_name, low_cpu_mem_usage=low_cpu_mem_usage)
        # PEFT rounds float32 factors to a half-precision base's dtype. They are widened and set a
        # second time, so that a reloaded adapter is the trained one to the bit.
        low_cpu_mem_usage = False
        widen(model)


def widen(model: nn.Module) -> None:
    """Convert trained and shared adapter tensors in half precision to float32.

    The frozen factors of this project's own methods keep the base's dtype on purpose.
    """
    for layer in tuner_layers(model).values():
        names = layer.adapter_layer_names
        if not isinstance(layer, NoraLinear | LowRankLinear):
            names += tuple(n for n in layer.other_param_names if hasattr(layer, n))
        for name in names:
            container = getattr(layer, name)
            if isinstance(container, BufferDict):
                for key in list(container.keys()):
                    if container[key].dtype in HALF:  # pyright: ignore
                        container[key] = container[key].float()  # pyright: ignore
            elif isinstance(container, nn.Module):
                for parameter in container.parameters():
                    if parameter.dtype in HALF:
                        parameter.data = parameter.data.float()


def set_strength(model: nn.Module, strength: float, adapter_name: str = "default") -> None:
    """Scale every adapted layer's change, relative to the trained one.

    Raises:
        StudioError: The method's change cannot be scaled.
    """
    for layer in tuner_layers(model).values():
        config = adapter_config(model, adapter_name)
        tuner = _tuner_record(config)
        if tuner.scaling is not None:
            layer.scaling[adapter_name] = tuner.scaling(config, strength)  # pyright: ignore
        elif not tuner.is_sum or not hasattr(layer, "set_scale"):
            raise StudioError(
                f"strength must be 1 for {tuner.kind.lower()}, whose change is not added to the "
                f"layer and cannot be scaled; got {strength}. Leave it out."
            )
        else:
            layer.set_scale(adapter_name, strength)  # pyright: ignore
            if adapter_name in getattr(layer, "lora_magnitude_vector", ()):
                scale_magnitude(layer, adapter_name, strength)


def _tuner_record(config: PeftConfig) -> Tuner:
    """Return the record of a configuration's tuner."""
    return tuner_of_kind(PeftType(config.peft_type).value)
