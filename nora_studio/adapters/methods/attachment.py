"""Attach any method to any model, detach it, and list its trained weights."""

import warnings
from collections.abc import Sequence

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from torch import nn

from nora_studio.adapters.methods.injection import inject, widen
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec, Shape
from nora_studio.adapters.methods.table import METHODS, method_named
from nora_studio.errors import StudioError


def check_settings(spec: AdapterSpec) -> None:
    """Refuse settings that the method does not have.

    Raises:
        StudioError: the method is unknown or lacks one of the settings.
    """
    method = method_named(spec.method)
    foreign = [name for name in spec.settings() if name not in method.settings]
    if foreign:
        owners = [name for name, other in METHODS.items() if set(foreign) <= other.settings]
        raise StudioError(
            f"{', '.join(foreign)}: not among the settings of {spec.method}, but of "
            f"{', '.join(owners)}. Leave it out, or choose another method."
        )


def attach(
    model: nn.Module, targets: Sequence[str], spec: AdapterSpec, adapter_name: str = "default"
) -> list[str]:
    """Attach an adapter to a model, in place, and freeze everything else.

    The trained weights are float32 (or wider), on a half-precision base too. A second adapter of
    the same method may be added under another name; it becomes the active and trained one. On
    failure the model is left unchanged.

    Args:
        model: Any module; it may be on the meta device, where adapters have shapes only.
        targets: Names of linear layers, in full or as endings after a dot ("to_out.0").
        spec: The adapter.
        adapter_name: A name that no adapter on the model has.

    Returns:
        Names of the adapted modules, in the model's order.

    Raises:
        StudioError: The method is unknown or lacks a setting, a target matches nothing or no linear
            layer, a rank does not fit, or the model carries another method or an adapter of that
            name.
    """
    check_settings(spec)
    method = METHODS[spec.method]
    names = _find_targets(model, targets)
    shapes = [_shape(model.get_submodule(name), name) for name in names]
    for name, shape in zip(names, shapes, strict=True):
        method.fits(spec, name, shape)
    config = method.build(spec, list(targets), shapes)
    _check_present(model, PeftType(config.peft_type), spec.method, adapter_name)
    active = {name: layer.active_adapters for name, layer in tuner_layers(model).items()}
    try:
        with warnings.catch_warnings():
            # Several adapters on one model are intended here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject(config, model, adapter_name)
    except ValueError as error:
        _roll_back(model, adapter_name, active)
        if isinstance(error, StudioError):
            raise
        raise StudioError(
            f"{spec.method} cannot adapt this model: {str(error).rstrip('.')}. Choose another base."
        ) from error
    model.requires_grad_(False)
    for layer in tuner_layers(model).values():
        if method.frozen:
            # PEFT's way to keep a factor frozen whenever the adapter is activated again.
            frozen = {**layer.frozen_peft_weight_names, adapter_name: method.frozen}
            layer.frozen_peft_weight_names = frozen
        layer.set_adapter([adapter_name])
        # PEFT creates dropout in training mode even on a model in evaluation mode.
        layer.train(layer.get_base_layer().training)  # pyright: ignore
    widen(model)
    if method.after_attach is not None:
        method.after_attach(model, adapter_name)
    if hasattr(model, "_hf_peft_config_loaded"):
        # Enables diffusers' and transformers' own adapter methods on their models.
        model._hf_peft_config_loaded = True  # pyright: ignore
    return names


def detach(model: nn.Module) -> None:
    """Remove every adapter, in place; the base weights were never changed.

    Raises:
        StudioError: An adapter is merged into the weights, which cannot be undone exactly.
    """
    layers = tuner_layers(model)
    merged = sorted({name for layer in layers.values() for name in layer.merged_adapters})
    if merged:
        raise StudioError(
            f"adapter {', '.join(merged)} is merged into the weights and cannot be removed "
            "exactly. Unmerge it first, or load the base model again."
        )
    for name, layer in layers.items():
        _set_module(model, name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    if "_hf_peft_config_loaded" in vars(model):
        del model._hf_peft_config_loaded


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained weights of the adapters by their names in the model.

    A weight that several layers share is listed once, under the first layer's name.
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for layer_name, layer in tuner_layers(model).items():
        for name, parameter in layer.named_parameters():  # pyright: ignore
            own = parameter.requires_grad and not name.startswith("base_layer.")
            if own and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{layer_name}.{name}"] = parameter
    return found


def count_parameters(model: nn.Module) -> int:
    """Count the trained numbers of the adapters."""
    return sum(parameter.numel() for parameter in adapter_parameters(model).values())


def _find_targets(model: nn.Module, targets: Sequence[str]) -> list[str]:
    inside = tuple(f"{name}." for name in tuner_layers(model))
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and not (inside and name.startswith(inside))
    }
    unmatched = [t for t in targets if not any(_matches(t, name) for name in modules)]
    if unmatched or not targets:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        examples = ", ".join(linear[:: max(1, len(linear) // 4)][:4]) or "none"
        raise StudioError(
            f"targets must name modules of the {type(model).__name__}; nothing there ends with "
            f"{', '.join(unmatched) or '(no targets given)'}. Linear layers are, for example: "
            f"{examples}."
        )
    return [name for name in modules if any(_matches(t, name) for t in targets)]


def _matches(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _shape(module: nn.Module, name: str) -> Shape:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(base, nn.Linear):
        raise StudioError(
            f"targets must be linear layers; {name} is a {type(base).__name__}. Narrow the targets."
        )
    return base.out_features, base.in_features


def _check_present(model: nn.Module, kind: PeftType, method: str, adapter_name: str) -> None:
    layers = tuner_layers(model)
    for config in getattr(model, "peft_config", {}).values() if layers else ():
        if PeftType(config.peft_type) != kind:
            raise StudioError(
                f"the model already carries a {PeftType(config.peft_type).value.lower()} adapter; "
                f"{method} cannot be added to it. Detach that adapter first."
            )
    for name, layer in layers.items():
        if layer.merged:
            raise StudioError(
                f"{name} has {', '.join(layer.merged_adapters)} merged into its weight; a new "
                "adapter would start from the changed weight. Unmerge it first."
            )
        if adapter_name in layer._all_available_adapter_names():
            raise StudioError(
                f"{name} already carries an adapter named {adapter_name!r}. "
                "Choose another name, or detach that adapter first."
            )
    if layers and not METHODS[method].several:
        raise StudioError(
            f"a model can carry only one {method} adapter, and this one already does. Detach it "
            "first."
        )


def _roll_back(model: nn.Module, adapter_name: str, active: dict[str, list[str]]) -> None:
    """Undo a half-finished attach; `active` has the layers and adapters that were there before."""
    for name, layer in tuner_layers(model).items():
        if name in active:
            layer.set_adapter(active[name])
            layer.delete_adapter(adapter_name)
        else:
            _set_module(model, name, layer.get_base_layer())
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and hasattr(model, "peft_config"):
        del model.peft_config


def _set_module(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
