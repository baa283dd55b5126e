"""PEFT's LoRA layer with its training step fused, and its factors converted once for each step.

    y = x W' + b + (x A') B',   both factors in the base's dtype, B with the scale

PEFT's own layer runs eight small kernels for this, and converts both factors or all activations at
every call. Outside a training step this layer is PEFT's.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nora_studio.nora.stacked import GroupedLayers, StackedParameters, grouped, layers_of


class LoraUpdate(torch.autograd.Function):
    """`x weight' + bias + (x down') up'`; weight and bias are frozen, the factors are trained.

    The tensors have one dtype; the input may have another. Without a weight, `result` is the base's
    output, to which the update is added.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (..., in_features)
        result: Tensor | None,  # (..., out_features)
        weight: Tensor | None,  # (out_features, in_features)
        bias: Tensor | None,  # (out_features,)
        down: Tensor,  # (rank, in_features)
        up: Tensor,  # (out_features, rank)
    ) -> Tensor:
        """Return the layer's output: (..., out_features)."""
        tokens = x.reshape(-1, x.shape[-1]).to(down.dtype)
        hidden = tokens @ down.T  # (tokens, rank)
        if weight is None:
            assert result is not None
            updated = torch.addmm(result.reshape(-1, up.shape[0]), hidden, up.T)
        else:
            updated = F.linear(tokens, weight, bias).addmm_(hidden, up.T)
        ctx.save_for_backward(tokens, hidden, weight, down, up)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return updated.view(*x.shape[:-1], up.shape[0])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the base's output and the factors."""
        tokens, hidden, weight, down, up = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, up.shape[0])
        gradient_hidden = gradient @ up  # (tokens, rank)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = (
                gradient_hidden @ down
                if weight is None
                else (gradient @ weight).addmm_(gradient_hidden, down)
            )
            gradient_x = gradient_x.view(ctx.shape).to(ctx.dtype)
        return (
            gradient_x,
            gradients[0] if weight is None else None,
            None,
            None,
            gradient_hidden.T @ tokens,
            gradient.T @ hidden,
        )


class FusedLoraLinear(Linear):
    """PEFT's LoRA on a dense layer, which trains with factors that `LoraFactors` has converted."""

    converts_dtypes = True
    """Whether a step computes in the base's dtype, whatever that of the factors."""
    step_factors: tuple[Tensor, Tensor] | None = None
    """The active adapter's (rank, in_features) and scaled (out_features, rank), during a step."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the base layer and the active adapters: (..., in_features) -> (..., out_features).

        Other arguments are passed to PEFT's layer.
        """
        if self.step_factors is None or args or kwargs or not torch.is_grad_enabled():
            return super().forward(x, *args, **kwargs)
        down, up = self.step_factors
        base: Any = self.base_layer
        dropout = self.lora_dropout[self.active_adapters[0]]
        drops = isinstance(dropout, nn.Dropout) and dropout.training
        if type(base) is nn.Linear and not drops:
            updated = LoraUpdate.apply(x, None, base.weight, base.bias, down, up)
        else:
            updated = LoraUpdate.apply(dropout(x), base(x), None, None, down, up)
        assert isinstance(updated, Tensor)
        return updated


def fused_layer(
    target: nn.Module,
    adapter_name: str,
    config: LoraConfig,
    parameter_name: str | None = None,
    **settings: Any,
) -> FusedLoraLinear | None:
    """Return a layer around a plain dense one; None for another, which PEFT then chooses.

    PEFT calls this for layers that are an `nn.Linear`, as `LoraConfig` maps them to it.
    """
    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    weight = getattr(base, "weight", None)
    # A quantised weight is of a class of its own.
    if parameter_name is not None or type(weight) is not nn.Parameter:
        return None
    if not weight.is_floating_point():
        return None
    return FusedLoraLinear(target, adapter_name, config=config, **settings)


class LoraFactors(GroupedLayers):
    """The factors of a model's trained `FusedLoraLinear`s, converted before a forward pass."""

    def __init__(self, modules: Iterable[nn.Module], adapter_name: str = "default") -> None:
        layers = layers_of(modules, FusedLoraLinear, lambda layer: _can_stack(layer, adapter_name))
        kinds = grouped(layers, lambda layer: _kind(layer, adapter_name))
        super().__init__([_Group(group, adapter_name) for group in kinds])


class _Group:
    """Layers whose factors have the same shapes."""

    def __init__(self, layers: Sequence[FusedLoraLinear], adapter_name: str) -> None:
        self.layers = layers
        self.down = StackedParameters([_factors(layer, adapter_name)[0] for layer in layers])
        self.up = StackedParameters([_factors(layer, adapter_name)[1] for layer in layers])
        self.stacks = (self.down, self.up)
        scales = [layer.scaling[adapter_name] for layer in layers]
        self.scales = self.up.gradient.new_tensor(scales).view(-1, 1, 1)
        self.dtype = _base_weight(layers[0]).dtype

    def form(self) -> None:
        downs = self.down.whole.to(self.dtype).unbind()
        ups = (self.up.whole * self.scales).to(self.dtype).unbind()
        for layer, down, up in zip(self.layers, downs, ups, strict=True):
            layer.step_factors = down, up

    def drop(self) -> None:
        for layer in self.layers:
            layer.step_factors = None


def _base_weight(layer: FusedLoraLinear) -> Tensor:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, Tensor)
    return weight


def _can_stack(layer: FusedLoraLinear, adapter_name: str) -> bool:
    """Return whether a layer trains both factors of this adapter alone, as plain LoRA."""
    if adapter_name not in layer.lora_A or layer.active_adapters != [adapter_name] or layer.merged:
        return False
    if adapter_name in layer.lora_variant or layer.lora_bias[adapter_name]:
        return False
    factors = _factors(layer, adapter_name)
    return all(factor.requires_grad and not factor.is_meta for factor in factors)


def _factors(layer: FusedLoraLinear, adapter_name: str) -> tuple[nn.Parameter, nn.Parameter]:
    """Return an adapter's trained `down` and `up`."""
    down, up = layer.lora_A[adapter_name].weight, layer.lora_B[adapter_name].weight
    assert isinstance(down, nn.Parameter) and isinstance(up, nn.Parameter)
    return down, up


def _kind(layer: FusedLoraLinear, adapter_name: str) -> tuple[object, ...]:
    down, up = _factors(layer, adapter_name)
    return down.shape, up.shape, down.dtype, up.dtype, _base_weight(layer).dtype, up.device
