"""An adapter's change of each weight as low-rank factors; exact for low-rank methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.adapters.tuners import LowRankLinear
from nora_studio.adapters.tuners.lora import FusedLoraLinear
from nora_studio.errors import StudioError, first_line
from nora_studio.nora import NoraLinear, canonical_signs


@dataclass(frozen=True)
class Update:
    """The change of one weight, `up @ down`, in float64."""

    up: Tensor
    """(out_features, rank)"""
    down: Tensor
    """(rank, in_features)"""
    lost: float = 0.0
    """Squared norm of the part of the change that the factors leave out; 0 if they are exact."""

    @property
    def rank(self) -> int:
        """The number of columns of `up`."""
        return self.up.shape[1]

    def dense(self) -> Tensor:  # (out_features, in_features)
        """Return the change as one matrix."""
        return self.up @ self.down


Updates = dict[str, dict[str, Update]]
"""Part -> layer's name -> its change."""


@dataclass(frozen=True)
class ApproximationSummary:
    """How far approximations are from the exact updates, as relative Frobenius norms."""

    overall: float
    """Error of all layers together."""
    worst: float
    """Error of the worst layer."""
    layer: str
    """The worst layer, with its part."""

    def __str__(self) -> str:
        if self.worst == 0:
            return "none"
        return f"{self.overall:.2g} of its size overall, {self.worst:.2g} at worst ({self.layer})"


def norm_of(up: Tensor, down: Tensor) -> float:
    """Return the Frobenius norm of `up @ down`, without computing the product."""
    left, right = torch.linalg.qr(up)[1], torch.linalg.qr(down.T)[1]
    return float(torch.linalg.matrix_norm(left @ right.T))


def canonicalize(update: Update, rank: int | None = None) -> Update:
    """Rewrite an update by its singular vectors, with each singular value's root in both factors.

    The leading components are then the closest update of a lower rank (Eckart & Young, 1936), and
    both factors have numbers of similar size, which half precision rounds best.

    Args:
        update: Any.
        rank: Components to keep; those beyond the update's own rank are zeros. None: all.
    """
    left, left_rest = torch.linalg.qr(update.up)
    right, right_rest = torch.linalg.qr(update.down.T)
    inner, singular, inner_down = torch.linalg.svd(left_rest @ right_rest.T, full_matrices=False)
    root = singular.sqrt()
    up, down = canonical_signs(left @ inner * root, root[:, None] * (inner_down @ right.T))
    if rank is None:
        return Update(up, down)
    up, down = up[:, :rank], down[:rank]
    short = rank - up.shape[1]
    if short > 0:
        up = torch.cat([up, up.new_zeros(up.shape[0], short)], dim=1)
        down = torch.cat([down, down.new_zeros(short, down.shape[1])])
    return Update(up.contiguous(), down.contiguous())


def error_of(found: Updates, wanted: Updates) -> ApproximationSummary:
    """Return how far updates are from the exact ones, for the worst layer and in all."""
    missed, total, worst, layer = 0.0, 0.0, 0.0, ""
    for part, layers in wanted.items():
        for name, update in layers.items():
            other = found[part][name]
            size = norm_of(update.up, update.down) ** 2 + update.lost
            up = torch.cat([update.up, -other.up.double()], dim=1)
            off = norm_of(up, torch.cat([update.down, other.down.double()])) ** 2 + update.lost
            missed, total = missed + off, total + size
            if size > 0 and (off / size) ** 0.5 > worst:
                worst, layer = (off / size) ** 0.5, f"{part}.{name}"
    return ApproximationSummary((missed / total) ** 0.5 if total > 0 else 0.0, worst, layer)


def with_rank(updates: Updates, rank: int | None = None) -> Updates:
    """Rewrite every update with one rank for each part: the given one, or the part's largest.

    One rank for each part, because several loaders take the scale of every layer from one of them.
    """
    rewritten: Updates = {}
    for part, layers in updates.items():
        largest = max(update.rank for update in layers.values())
        width = largest if rank is None else min(rank, largest)
        rewritten[part] = {name: canonicalize(update, width) for name, update in layers.items()}
    return rewritten


def mix(several: Sequence[Updates], weights: Sequence[float]) -> Updates:
    """Return the weighted sum of adapters, exactly; their ranks add up, and bounds on `lost`."""
    mixed: Updates = {}
    for updates, weight in zip(several, weights, strict=True):
        for part, layers in updates.items():
            target = mixed.setdefault(part, {})
            for name, update in layers.items():
                up, down, lost = update.up * weight, update.down, weight**2 * update.lost
                if name in target:
                    up = torch.cat([target[name].up, up], dim=1)
                    down = torch.cat([target[name].down, down])
                    lost = (target[name].lost ** 0.5 + lost**0.5) ** 2
                target[name] = Update(up, down, lost)
    return mixed


def is_exact(layer: BaseTunerLayer) -> bool:
    """Return whether the layer's change is a product of low-rank factors."""
    if isinstance(layer, NoraLinear | LowRankLinear):
        return True
    if not isinstance(layer, LoraLinear) or not isinstance(layer.get_base_layer(), nn.Linear):
        return False
    kinds: set[type[nn.Module]] = {LoraLinear, FusedLoraLinear}
    if layer.__class__ not in kinds:  # PEFT's subclasses are other sums.
        return False
    plain = ADAPTER_NAME in layer.lora_A and ADAPTER_NAME not in layer.lora_magnitude_vector
    return plain and not layer.lora_bias.get(ADAPTER_NAME, False)


def read_updates(parts: Mapping[str, nn.Module], rank: int | None = None) -> Updates:
    """Read the change of every adapted layer from a model with an adapter on it.

    Args:
        parts: The adapted modules.
        rank: For methods whose change is not a product of low-rank factors (LoKr, OFT, DoRA, ...):
            the rank of its closest approximation. The base's weights are needed then.

    Raises:
        StudioError: the method needs a rank, or changes more than weights.
    """
    updates: Updates = {}
    for part, module in parts.items():
        layers = tuner_layers(module)
        if layers:
            updates[part] = {n: _read_update(f"{part}.{n}", v, rank) for n, v in layers.items()}
    return updates


def _read_update(name: str, layer: BaseTunerLayer, rank: int | None) -> Update:
    if isinstance(layer, NoraLinear | LowRankLinear):
        up, down = layer.lora_factors(ADAPTER_NAME)
        return Update(up.double().cpu(), down.double().cpu())
    if is_exact(layer) and isinstance(layer, LoraLinear):
        up = layer.lora_B[ADAPTER_NAME].weight.detach().double().cpu()  # pyright: ignore
        down = layer.lora_A[ADAPTER_NAME].weight.detach().double().cpu()  # pyright: ignore
        return Update(up * layer.scaling[ADAPTER_NAME], down)
    if rank is None:
        raise StudioError(
            f"{name}: this adapter's update is not a product of low-rank factors, so a LoRA can "
            "only approximate it. Give the LoRA's rank, for example --rank 32."
        )
    up, singular, down = torch.linalg.svd(dense_change(name, layer), full_matrices=False)
    root = singular[:rank].sqrt()
    lost = float(singular[rank:].square().sum())
    return Update(up[:, :rank] * root, root[:, None] * down[:rank], lost)


@torch.no_grad()
def dense_change(name: str, layer: BaseTunerLayer) -> Tensor:  # (out_features, in_features)
    """Compute the change of one layer's weight by its adapter, for any method, in float64.

    Raises:
        StudioError: the adapter also changes the bias, or cannot be merged into a weight.
    """
    if is_exact(layer):
        return _read_update(name, layer, None).dense()
    base = layer.get_base_layer()
    weight: Tensor = base.weight  # pyright: ignore
    if weight.is_meta:
        raise StudioError(
            f"{name}: the adapter's change depends on the base's weights, which are not loaded. "
            "Load them first."
        )
    bias = getattr(base, "bias", None)
    kept = weight.detach().clone(), None if bias is None else bias.detach().clone()
    try:
        # In float64, so that the difference of the weights is not lost to rounding.
        weight.data = weight.data.double()
        layer.merge(adapter_names=[ADAPTER_NAME])
        changed = weight.detach().double().cpu() - kept[0].double().cpu()
        moved_bias = kept[1] is not None and not torch.equal(base.bias.data.to(kept[1]), kept[1])  # pyright: ignore
    except (RuntimeError, ValueError) as error:
        raise StudioError(
            f"{name}: its adapter cannot be merged into a weight: "
            f"{first_line(error).rstrip('.')}. Use the adapter as it is, without exporting or "
            "merging it."
        ) from error
    finally:
        layer.merged_adapters.clear()
        weight.data = kept[0]
        if kept[1] is not None:
            base.bias.data = kept[1]  # pyright: ignore
    if moved_bias:
        raise StudioError(
            f"{name}: its adapter changes the bias too, which a LoRA cannot. Use the adapter's own "
            "folder instead."
        )
    return changed
