"""The exact weighted sum of NoRA adapters that share their outer factors."""

import torch
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear


def combined_config(
    configs: dict[str, NoraConfig], weights: list[float], layers: list[str]
) -> NoraConfig:
    """Return the configuration of a weighted sum of adapters.

    Args:
        configs: Adapter -> its configuration.
        weights: One factor for each adapter.
        layers: Names of all layers that carry one of the adapters.

    Raises:
        StudioError: There are no adapters, or not one weight for each.
    """
    if not configs or len(configs) != len(weights):
        raise StudioError(
            f"expected at least one adapter and one weight for each; got {len(weights)} weights "
            f"for the adapters {', '.join(configs) or '(none)'}."
        )
    outer_rank = max(config.outer_rank for config in configs.values())
    # Twice the rank, since the update is a difference of two products; the outer rank is the limit.
    ranks = [2 * max(c.r, *c.rank_pattern.values(), 1) for c in configs.values()]
    return NoraConfig(
        r=min(sum(ranks), outer_rank),
        outer_rank=outer_rank,
        start="paper",
        target_modules=set(layers),
        init_weights=False,
        inference_mode=True,
    )


@torch.no_grad()
def combine(
    layer: NoraLinear, weights: dict[str, float], config: NoraConfig, adapter_name: str, name: str
) -> None:
    """Add the weighted sum of some of a layer's adapters to the layer, as a new adapter.

    The new adapter's start is zero, since its parts may have different starts.

    Args:
        layer: Carries at least one of the adapters.
        weights: Adapter -> factor on its update (scale included).
        config: From `combined_config`.
        adapter_name: The new adapter's name.
        name: The layer's name in its model, for messages.

    Raises:
        StudioError: The adapters' outer factors differ.
    """
    present = [adapter for adapter in weights if adapter in layer.nora_inner_up]
    widest = max(present, key=lambda adapter: layer.outer_rank[adapter])
    up, down = layer.outer_pair(widest)
    width = up.shape[1]
    for adapter in present:
        other_up, other_down = layer.outer_pair(adapter)
        rank = other_up.shape[1]
        if not (torch.equal(up[:, :rank], other_up) and torch.equal(down[:rank], other_down)):
            raise StudioError(
                f"{name}: adapters {widest!r} and {adapter!r} have different outer factors, so "
                "their sum is not a NoRA. Combine their exact LoRAs (NoraLinear.lora_factors), or "
                "merge one after the other."
            )
    lefts, rights = [], []
    for adapter in present:
        left, right = layer.core_factors(adapter)
        lefts.append(_pad_rows(weights[adapter] * left, width))
        rights.append(_pad_rows(right.T, width).T)
    left, right = torch.cat(lefts, dim=1), torch.cat(rights, dim=0)
    left, right = _narrow(left, right, config.r)
    layer.update_layer(adapter_name, config, config.r, float(config.r), name)
    outer = config.outer_rank
    layer.nora_inner_up[adapter_name].copy_(_pad_rows(left, outer)).requires_grad_(False)
    layer.nora_inner_down[adapter_name].copy_(_pad_rows(right.T, outer).T).requires_grad_(False)
    for start in (layer.nora_inner_up_start, layer.nora_inner_down_start):
        start[adapter_name] = torch.zeros_like(start[adapter_name])  # pyright: ignore
    layer.nora_up[adapter_name] = _pad_rows(up.T, outer).T.contiguous()
    layer.nora_down[adapter_name] = _pad_rows(down, outer)


def _narrow(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Rewrite a product with exactly `rank` inner channels; its rank must not be higher."""
    if left.shape[1] <= rank:
        return _pad_rows(left.T, rank).T, _pad_rows(right, rank)
    up, singular, down = torch.linalg.svd((left.double() @ right.double()), full_matrices=False)
    root = singular[:rank].sqrt()
    return (up[:, :rank] * root).to(left), (root[:, None] * down[:rank]).to(right)


def _pad_rows(matrix: Tensor, rows: int) -> Tensor:
    """Append rows of zeros until there are `rows`."""
    missing = rows - matrix.shape[0]
    return torch.cat([matrix, matrix.new_zeros(missing, matrix.shape[1])]) if missing else matrix
