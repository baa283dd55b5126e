"""Time the computation of NoRA's outer factors for all 560 attention layers of SDXL's UNet.

    python evaluation/outer_factors.py --device cuda
    python evaluation/outer_factors.py --device cpu --sample 2 --threads 2

The layers' shapes are those of SDXL on the meta device; each layer in turn is filled with random
weights and decomposed. Prints a table of seconds for each algorithm and spectrum:
"trained" decays as attention weights of trained models do, "gaussian" is the worst case. With
`--sample`, only that many layers of each shape are timed and the sum is extrapolated. `--check`
compares the first layer of each shape with the full float64 SVD.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from nora_studio.errors import StudioError
from nora_studio.nora.svd import outer_factors
from nora_studio.options.command_line import parse_command
from nora_studio.runs.entry import run_entry
from nora_studio.sdxl.models import targets_for
from nora_studio.sdxl.shapes import SDXL_UNET

Shape = tuple[int, int]


@dataclass(frozen=True)
class Options:
    """Time the decomposition of every attention weight of SDXL's UNet."""

    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Device on which the weights are decomposed."""
    rank: int = 64
    """Outer rank."""
    outer: tuple[Literal["svd", "randomized"], ...] = ("svd", "randomized")
    """Algorithms to time."""
    spectrum: tuple[Literal["trained", "gaussian"], ...] = ("trained", "gaussian")
    """Kinds of random weights."""
    sample: int | None = None
    """Number of layers of each shape to time. None: all."""
    threads: int | None = None
    """CPU threads. None: torch's default."""
    check: bool = False
    """Also compare with the full float64 SVD."""


def attention_shapes() -> Counter[Shape]:
    """Count SDXL's attention layers by shape, (out_features, in_features)."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(SDXL_UNET)
    endings = tuple(f".{target}" for target in targets_for("unet"))
    layers = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(endings)
    ]
    return Counter((layer.out_features, layer.in_features) for layer in layers)


def random_weight(shape: Shape, spectrum: str, seed: int, device: str) -> Tensor:
    """Return a random float32 weight; for "trained", singular values fall as index ** -0.4."""
    generator = torch.Generator(device).manual_seed(seed)
    weight = torch.randn(shape, generator=generator, device=device)
    if spectrum == "gaussian":
        return weight
    # Orthonormal vectors by QR: an SVD would take longer than what is timed.
    side, columns = min(shape), shape[1]
    left, _ = torch.linalg.qr(weight[:, :side])
    other = torch.randn((columns, side), generator=generator, device=device)
    right, _ = torch.linalg.qr(other)
    return left * torch.arange(1, side + 1, device=device) ** -0.4 @ right.T


def timed(work: Callable[[], object], device: str) -> float:
    """Return the seconds that one call takes, including work queued on the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - began


def total_seconds(options: Options, outer: str, spectrum: str) -> tuple[float, float, int]:
    """Return the seconds for all layers, the seconds measured, and the number of layers timed."""
    whole = measured = 0.0
    layers = 0
    for shape, count in attention_shapes().items():
        chosen = count if options.sample is None else min(count, options.sample)
        spent = 0.0
        for seed in range(chosen):
            weight = random_weight(shape, spectrum, seed, options.device)
            spent += timed(lambda w=weight: outer_factors(w, options.rank, outer), options.device)
        whole += spent / chosen * count
        measured += spent
        layers += chosen
    return whole, measured, layers


def worst_error(options: Options, outer: str, spectrum: str) -> float:
    """Return the largest distance of a left singular vector from the full float64 SVD's."""
    worst = 0.0
    for shape in attention_shapes():
        weight = random_weight(shape, spectrum, 0, options.device)
        up = outer_factors(weight, options.rank, outer)[0].double()
        best = torch.linalg.svd(weight.double(), full_matrices=False)[0][:, : options.rank]
        signs = (up * best).sum(dim=0).sign()
        worst = max(worst, float((up * signs - best).norm(dim=0).max()))
    return worst


def main() -> int:
    """Print the table of seconds and return the exit status."""
    options = parse_command(Options, description=__doc__)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise StudioError("--device: expected cpu, since torch finds no GPU; got cuda.")
    if options.threads:
        torch.set_num_threads(options.threads)
    shapes = attention_shapes()
    listed = ", ".join(f"{count} of {rows}x{columns}" for (rows, columns), count in shapes.items())
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{shapes.total()} layers ({listed}), rank {options.rank}, on {place}")
    outer_factors(random_weight((1280, 1280), "trained", 0, options.device), options.rank, "svd")
    print(f"{'outer':<12}{'spectrum':<12}{'all layers':>12}{'measured':>12}{'error':>12}")
    for outer in options.outer:
        for spectrum in options.spectrum:
            whole, measured, layers = total_seconds(options, outer, spectrum)
            error = f"{worst_error(options, outer, spectrum):.1e}" if options.check else "-"
            seen = f"{measured:.1f} s/{layers}"
            print(f"{outer:<12}{spectrum:<12}{whole:>10.1f} s{seen:>12}{error:>12}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_entry(main))
