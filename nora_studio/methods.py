"""The table of adapter methods, and how any of them goes on any model.

A new method is one entry in `METHODS`: whatever PEFT knows can stand there.
"""

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter as a person asks for it, whatever the method."""

    method: str
    """A name in `METHODS`."""
    rank: int
    """LoRA: rank. NoRA: inner rank. 1 to the smaller side of every target."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; None means a scale of 1."""
    dropout: float = 0.0
    """Probability of dropping an input channel of the update while training, 0 to below 1."""
    outer_rank: int | None = None
    """NoRA: rank of the frozen factors; None means 64."""
    start: str = "difference"
    """NoRA: "difference" begins at exactly zero; "paper" as printed, for ablations."""
    outer: str = "svd"
    """NoRA: "svd" (exact) or "randomized" (fast on large weights)."""

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise StudioError(f"rank must be a whole number of 1 or more; got {self.rank!r}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise StudioError(f"alpha must be positive and finite; got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise StudioError(f"dropout must be 0 to below 1; got {self.dropout}.")


@dataclass(frozen=True)
class Method:
    """One way to adapt a model."""

    summary: str
    """One line for menus and help."""
    paper: str
    """arXiv identifier."""
    build: Callable[[AdapterSpec, list[str]], PeftConfig]
    """(spec, targets) -> the method's PEFT configuration."""


def _build_lora(spec: AdapterSpec, targets: list[str]) -> PeftConfig:
    plain = AdapterSpec(spec.method, spec.rank, spec.alpha, spec.dropout)
    if spec != plain:
        raise StudioError(
            "outer_rank, start and outer are settings of nora; lora has none of them. "
            "Leave them out, or choose nora."
        )
    # PEFT reads a scale of alpha / rank from any number; the annotation alone says int.
    alpha: int = spec.rank if spec.alpha is None else spec.alpha  # pyright: ignore
    return LoraConfig(
        r=spec.rank, lora_alpha=alpha, lora_dropout=spec.dropout, target_modules=targets
    )


def _build_nora(spec: AdapterSpec, targets: list[str]) -> PeftConfig:
    return NoraConfig(
        r=spec.rank,
        outer_rank=64 if spec.outer_rank is None else spec.outer_rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        start=spec.start,
        outer=spec.outer,
        target_modules=targets,
    )


METHODS: dict[str, Method] = {
    "lora": Method("LoRA: two trained low-rank factors", "2106.09685", _build_lora),
    "nora": Method(
        "NoRA: small trained factors nested in frozen singular vectors", "2408.10280", _build_nora
    ),
}


def attach(
    model: nn.Module, targets: Sequence[str], spec: AdapterSpec, adapter_name: str = "default"
) -> list[str]:
    """Put an adapter on a model, in place, and freeze everything else.

    The trained weights are float32 (or wider) beside a half-precision base too. A second adapter
    of the same method may be added under another name; it becomes the active and trained one. On
    failure the model is left as it was.

    Args:
        model: Any module; it may be on the meta device, where adapters have shapes only.
        targets: Names of linear layers, whole or as endings after a dot ("to_out.0").
        spec: The adapter.
        adapter_name: Not yet on the model.

    Returns:
        Names of the adapted modules, in the model's order.

    Raises:
        StudioError: The method is unknown, a target matches nothing or no linear layer, a rank does
            not fit, or the model carries another method or an adapter of that name.
    """
    if spec.method not in METHODS:
        nearest = difflib.get_close_matches(spec.method, METHODS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise StudioError(f"method must be one of {', '.join(METHODS)}; got {spec.method!r}.{hint}")
    config = METHODS[spec.method].build(spec, list(targets))
    layer_class = PEFT_TYPE_TO_TUNER_MAPPING[PeftType(config.peft_type)].tuner_layer_cls
    _check_present(model, layer_class, spec.method, adapter_name)
    names = _match(model, targets)
    for name in names:
        _check_fits(model.get_submodule(name), name, spec)
    active = {name: layer.active_adapters for name, layer in _tuner_layers(model).items()}
    try:
        with warnings.catch_warnings():
            # Several adapters on one model are what was asked for.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            inject_adapter_in_model(config, model, adapter_name)
    except ValueError:
        _withdraw(model, adapter_name, active)
        raise
    model.requires_grad_(False)
    for layer in _tuner_layers(model).values():
        layer.set_adapter([adapter_name])
        # PEFT makes dropout in training mode even on a model in evaluation mode.
        layer.train(layer.get_base_layer().training)  # pyright: ignore
    for parameter in adapter_parameters(model).values():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    if hasattr(model, "_hf_peft_config_loaded"):
        # How diffusers and transformers models know that their own adapter methods apply.
        model._hf_peft_config_loaded = True  # pyright: ignore
    return names


def detach(model: nn.Module) -> None:
    """Take every adapter out, in place; the base weights were never touched, so they are the same.

    Raises:
        StudioError: An adapter is merged into the weights, which subtraction cannot undo exactly.
    """
    layers = _tuner_layers(model)
    merged = sorted({name for layer in layers.values() for name in layer.merged_adapters})
    if merged:
        raise StudioError(
            f"adapter {', '.join(merged)} is merged into the weights and cannot be taken out to "
            "the bit. Unmerge it first, or load the base model again."
        )
    for name, layer in layers.items():
        _put(model, name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    if "_hf_peft_config_loaded" in vars(model):
        del model._hf_peft_config_loaded


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trained weights of the adapters by their names in the model."""
    return {
        f"{layer_name}.{name}": parameter
        for layer_name, layer in _tuner_layers(model).items()
        for name, parameter in layer.named_parameters()  # pyright: ignore
        if parameter.requires_grad and not name.startswith("base_layer.")
    }


def count_parameters(model: nn.Module) -> int:
    """Count the trained numbers of the adapters."""
    return sum(parameter.numel() for parameter in adapter_parameters(model).values())


def _tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }


def _match(model: nn.Module, targets: Sequence[str]) -> list[str]:
    inside = tuple(f"{name}." for name in _tuner_layers(model))
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and not (inside and name.startswith(inside))
    }
    unmatched = [t for t in targets if not any(_names(t, name) for name in modules)]
    if unmatched or not targets:
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        examples = ", ".join(linear[:: max(1, len(linear) // 4)][:4]) or "none"
        raise StudioError(
            f"targets must name modules of the {type(model).__name__}; nothing there ends with "
            f"{', '.join(unmatched) or '(no targets given)'}. Linear layers are, for example: "
            f"{examples}."
        )
    return [name for name in modules if any(_names(t, name) for t in targets)]


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _check_fits(module: nn.Module, name: str, spec: AdapterSpec) -> None:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(base, nn.Linear):
        raise StudioError(
            f"targets must be linear layers; {name} is a {type(base).__name__}. Narrow the targets."
        )
    limit = min(base.in_features, base.out_features)
    if spec.rank > limit:
        raise StudioError(
            f"rank must be 1-{limit} for {name} ({base.out_features}x{base.in_features}); "
            f"got {spec.rank}. Lower rank or narrow the targets."
        )


def _check_present(
    model: nn.Module, layer_class: type[BaseTunerLayer], method: str, adapter_name: str
) -> None:
    for name, layer in _tuner_layers(model).items():
        if not isinstance(layer, layer_class):
            raise StudioError(
                f"{name} already carries a {type(layer).__module__.split('.')[-2]} adapter; "
                f"{method} cannot go beside it. Detach the model first."
            )
        if layer.merged:
            raise StudioError(
                f"{name} has {', '.join(layer.merged_adapters)} merged into its weight; a new "
                "adapter would start from the wrong one. Unmerge it first."
            )
        if adapter_name in layer._all_available_adapter_names():
            raise StudioError(
                f"{name} already carries an adapter named {adapter_name!r}. "
                "Choose another name, or detach the model first."
            )


def _withdraw(model: nn.Module, adapter_name: str, active: dict[str, list[str]]) -> None:
    """Undo a half-finished attach; `active` tells which layers and adapters were there before."""
    for name, layer in _tuner_layers(model).items():
        if name in active:
            layer.set_adapter(active[name])
            layer.delete_adapter(adapter_name)
        else:
            _put(model, name, layer.get_base_layer())
    configs = getattr(model, "peft_config", {})
    configs.pop(adapter_name, None)
    if not configs and hasattr(model, "peft_config"):
        del model.peft_config


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
