"""Fit a NoRA to the difference of two models: least squares between the base's outer factors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.errors import StudioError
from nora_studio.nora import NoraLinear


@dataclass(frozen=True)
class Fit:
    """How well an adapter approximates a difference, as shares of its squared Frobenius norm."""

    layers: int
    captured: float
    """Share captured by the adapter."""
    reachable: float
    """Share that the outer factors could capture with an inner rank as large as theirs."""
    adapted: float
    """Share of the model's whole difference that is in the adapted layers."""
    worst: float
    """Relative error of the worst layer."""
    worst_layer: str

    @property
    def error(self) -> float:
        """Relative Frobenius norm of what is not captured, over the adapted layers."""
        return max(0.0, 1.0 - self.captured) ** 0.5


def extract_part(
    base: nn.Module,
    tuned: Mapping[str, Tensor],
    targets: list[str],
    rank: int,
    outer_rank: int,
) -> Fit | None:
    """Attach the NoRA closest to a difference of weights to a base, in place.

    The update is `up C down` with orthonormal outer factors, so the best core C is the difference D
    projected on them, `up^T D down^T`, and the best one of rank `rank` is its leading singular part
    (Eckart & Young, 1936). The start is not subtracted (`start="paper"`): the inner product is then
    the core itself, and none of its rank is used up by the base's own singular values.

    Args:
        base: Without an adapter; float32.
        tuned: The other model's weights by name, of the same shapes.
        targets: Names or endings of the layers to adapt.
        rank: Inner rank.
        outer_rank: Rank of the frozen factors.

    Returns:
        How well it fits; None if no target differs.

    Raises:
        StudioError: names or shapes differ, or a rank does not fit.
    """
    weights = dict(base.state_dict())
    _check_same_shapes(weights, tuned)
    total = sum(_energy(tuned[name], weight) for name, weight in weights.items())
    spec = AdapterSpec("nora", rank, outer_rank=outer_rank, start="paper")
    names = attach(base, targets, spec)
    energy, captured, reachable, worst, worst_layer = 0.0, 0.0, 0.0, 0.0, ""
    for name, layer in tuner_layers(base).items():
        assert isinstance(layer, NoraLinear)
        weight = weights[f"{name}.weight"]
        difference = tuned[f"{name}.weight"].to(weight.device).double() - weight.double()
        size = float(difference.square().sum())
        within, kept = _fit(layer, difference)
        energy, reachable, captured = energy + size, reachable + within, captured + kept
        off = max(0.0, 1.0 - kept / size) ** 0.5 if size else 0.0
        if off > worst:
            worst, worst_layer = off, name
    if energy == 0:
        return None
    return Fit(
        len(names), captured / energy, reachable / energy, energy / total, worst, worst_layer
    )


@torch.no_grad()
def _fit(layer: NoraLinear, difference: Tensor) -> tuple[float, float]:
    """Set a layer's inner factors; return the energy in its outer factors, and the kept part."""
    up: Tensor = layer.nora_up[ADAPTER_NAME].double()  # pyright: ignore
    down: Tensor = layer.nora_down[ADAPTER_NAME].double()  # pyright: ignore
    core = up.T @ difference @ down.T  # (outer_rank, outer_rank)
    left, singular, right = torch.linalg.svd(core)
    rank = layer.r[ADAPTER_NAME]
    root = singular[:rank].sqrt()
    layer.nora_inner_up[ADAPTER_NAME].copy_(left[:, :rank] * root)
    layer.nora_inner_down[ADAPTER_NAME].copy_(root[:, None] * right[:rank])
    return float(singular.square().sum()), float(singular[:rank].square().sum())


def _energy(tuned: Tensor, weight: Tensor) -> float:
    if not weight.is_floating_point():
        return 0.0
    return float((tuned.double().cpu() - weight.double().cpu()).square().sum())


def _check_same_shapes(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor]) -> None:
    for name in sorted(base.keys() | tuned.keys()):
        base_weight, tuned_weight = base.get(name), tuned.get(name)
        shapes = [
            None if tensor is None else tuple(tensor.shape)
            for tensor in (base_weight, tuned_weight)
        ]
        if shapes[0] != shapes[1]:
            raise StudioError(
                f"the two models differ in shape: {name} is {shapes[0] or 'absent'} in the base, "
                f"{shapes[1] or 'absent'} in the other. Give a base and a model tuned from it."
            )
