"""Fingerprints that distinguish base models without hashing gigabytes."""

import math

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

PROBES = 16
PROBE_ENTRIES = 4096
_KEPT = "kept_fingerprint"


def fingerprint(module: nn.Module) -> list[float]:
    """Return numbers that distinguish a base's weights from others, whatever dtype they are in.

    Each number is the product of a matrix's first entries with a fixed pattern of signs, over the
    entries' norm, for `PROBES` matrices spread over the module. Another base changes a number by
    about 1, bfloat16 by about 1e-3. Adapters on the module are left out.

    Returns:
        `PROBES` numbers (fewer on a module with fewer matrices).
    """
    kept: list[float] | None = vars(module).get(_KEPT)
    if kept is not None:
        return list(kept)
    adapted = {name for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
    weights = [
        tensor
        for name, tensor in module.state_dict().items()
        if tensor.ndim >= 2 and tensor.is_floating_point() and not _is_adapter_key(name, adapted)
    ]
    if not weights:
        return []
    chosen = [weights[i * len(weights) // PROBES] for i in range(min(PROBES, len(weights)))]
    return [_probe(weight) for weight in chosen]


def keep_fingerprint(module: nn.Module) -> None:
    """Store a module's current fingerprint on it, before its weights are quantised."""
    setattr(module, _KEPT, fingerprint(module))


def _is_adapter_key(name: str, adapted: set[str]) -> bool:
    """Return whether a tensor belongs to an adapter, whatever the method names it."""
    pieces = name.split(".")
    return any(
        pieces[depth] != "base_layer" and ".".join(pieces[:depth]) in adapted
        for depth in range(1, len(pieces))
    )


def _probe(weight: Tensor) -> float:
    entries = weight.detach().flatten()[:PROBE_ENTRIES].to("cpu", torch.float64)
    # Signs from arithmetic, not from a generator, to be the same in every torch release.
    signs = torch.cos(torch.arange(len(entries), dtype=torch.float64) ** 2).sign()
    norm = entries.norm().item()
    return round((entries @ signs).item() / norm, 6) if norm > 0 else 0.0


def fingerprints_agree(expected: list[float], found: list[float], tolerance: float = 6e-3) -> bool:
    """Return whether two fingerprints are of the same weights, up to rounding to half precision."""
    return len(expected) == len(found) and all(
        math.isclose(a, b, rel_tol=0.0, abs_tol=tolerance)
        for a, b in zip(expected, found, strict=True)
    )
