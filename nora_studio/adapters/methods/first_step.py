"""How far an adapter's first step moves a weight, to compare learning rates between methods.

A learning rate is the size of a step of each trained number; what that step does to the weight W of
a layer depends on the method's scale, ranks, frozen factors and start. So the change itself is
measured: the spectral norm of (delta W after one step - delta W before), over the largest singular
value of W.
"""

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from nora_studio.adapters.methods.peft_tuners import tuner_layers

LARGEST = 0.25
ROOT_STEPS = 6.0
"""A first step is too large above `LARGEST`, or above `ROOT_STEPS` over the root of the steps.

Adam's steps stay about as large as the first. If their directions are independent, they add up to
the first times the root of their number: at this limit, six times the weight's largest singular
value, which overwrites what the base had learned. Measured: of the rates that a search on
validation images or photos chose here, the largest moves a weight by 22% (LoRA+, 640 steps, 5.7
times after them), NoRA's by 7% (120 steps) and 18% (640 steps); those of published recipes on real
models by 0.02% to 1%. No rate above 25% won a search.
"""
LAYERS = 6
"""Number of layers measured in each part, or one of each kind where there are more kinds."""
PROBES = 8
ITERATIONS = 4
"""Block power iterations; they find the norms of a trained model's weights to about 2%."""


@dataclass(frozen=True)
class FirstStep:
    """How far the first step moves one part's weights, over their largest singular values."""

    median: float
    largest: float
    layers: int
    """Number of layers that were measured."""


def first_steps(
    parts: Mapping[str, nn.Module], optimizer: Any, layers: int = LAYERS
) -> dict[str, FirstStep]:
    """Measure the first step on a few layers of each part, at the peak learning rates.

    Torch's global random state is neither read nor changed, and the model is unchanged afterwards,
    to the bit. If the base is sharded, every process has to call this.

    Args:
        parts: Adapted modules, before their first step.
        optimizer: Over their trained weights.
        layers: At least this many of each part, if it has them; of every kind in turn, spread from
            the first block to the last.
    """
    rates = step_rates(optimizer)
    found = {}
    for part, module in parts.items():
        chosen = _sample(tuner_layers(module), layers)
        shares = [first_step(layer, rates) for layer in chosen]
        # A weight of zeros or NaN has no share; NaN will show in the loss.
        shares = [share for share in shares if math.isfinite(share)]
        if shares:
            found[part] = FirstStep(statistics.median(shares), max(shares), len(shares))
    return found


def limit_of(steps: int) -> float:
    """Return the largest acceptable first step, as a share of a weight's largest singular value."""
    return min(LARGEST, ROOT_STEPS / math.sqrt(max(1, steps)))


def format_report(
    method: str, found: Mapping[str, FirstStep], steps: int, optimizer: Any
) -> list[str]:
    """Format the measurements as one line, and a warning for each part above the limit."""
    each = ", ".join(
        f"{part} {_percent(step.median)} (at most {_percent(step.largest)})"
        for part, step in found.items()
    )
    lines = [f"{method}: the first step moves a weight by, of its largest singular value: {each}"]
    limit, peaks = limit_of(steps), {group["name"]: group for group in optimizer.param_groups}
    for part, step in found.items():
        if step.largest <= limit:
            continue
        group = peaks.get(part, {"share": 1.0})
        remedy = "Lower its alpha."
        if "share" not in group:  # Prodigy finds the rate by itself.
            # The change is about proportional to the rate.
            rate = group.get("initial_lr", group["lr"]) * limit / step.largest
            flag = f"--{part.replace('_', '-')}.learning-rate"
            remedy = f"Lower {flag} to {_rounded_down(rate)} or less."
        lines.append(
            f"warning: {method}: the learning rate of {part} is too large: its first step moves a "
            f"weight by {_percent(step.largest)} of its largest singular value; over {steps:,} "
            f"steps, at most {_percent(limit)} works well. {remedy}"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _rounded_down(rate: float) -> str:
    """Format a rate, rounded down to one digit."""
    power = 10.0 ** math.floor(math.log10(rate))
    return f"{math.floor(rate / power + 1e-9) * power:.0e}"


def step_rates(optimizer: Any) -> dict[nn.Parameter, float]:
    """Return the size of each parameter's first full step: the peak rate, or Prodigy's first."""
    return {
        parameter: group.get("initial_lr", group["lr"])
        * (group["share"] * group["d0"] if "share" in group else 1.0)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def first_step(layer: Any, rates: Mapping[nn.Parameter, float]) -> float:
    """Measure the first step of one adapted layer, over the largest singular value of its weight.

    The result is infinite or NaN where the weight is all zeros or not finite.

    Adam's first step, and Lion's, moves every number by its rate against the gradient's sign; where
    the gradient is zero, as for LoRA's `down`, nothing moves. The gradient used is that of one
    token, u v^T for the weight, with random u and v. All signs of a factor then agree on one
    direction, as in a batch whose tokens agree: about the largest step that the rate can make. Real
    first batches of 16 questions move the embedded language model by 0.6 (LoRA, NoRA) to 1.0 (OFT)
    times as much.

    Args:
        layer: With its adapter active, before its first step; unchanged afterwards.
        rates: Rates of its trained weights; those of other layers may be included.
    """
    with _dense_base(layer) as weight:
        trained = [p for p in layer.parameters() if p.requires_grad and p in rates]
        before = [parameter.detach().clone() for parameter in trained]
        generator = torch.Generator().manual_seed(0)
        token = _random_rows(1, layer.in_features, generator, weight)
        loss = (layer(token) * _random_rows(1, layer.out_features, generator, weight)).sum()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        after = [
            start if gradient is None else start - rates[parameter] * gradient.sign()
            for parameter, start, gradient in zip(trained, before, gradients, strict=True)
        ]

        def output_with(values: list[Tensor], inputs: Tensor) -> Tensor:
            _set(trained, values)
            return layer(inputs)

        def change(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return output_with(after, inputs) - output_with(before, inputs)

        def back(outputs: Tensor) -> Tensor:
            gradients = []
            for values in (after, before):
                # The layer is linear in its input: any will do.
                inputs = outputs.new_zeros(len(outputs), layer.in_features, requires_grad=True)
                gradients.append(
                    torch.autograd.grad(output_with(values, inputs), inputs, outputs)[0]
                )
            return gradients[0] - gradients[1]

        try:
            moved = _norm(change, back, _random_rows(PROBES, layer.in_features, generator, weight))
        finally:
            _set(trained, before)
        probes = _random_rows(PROBES, layer.in_features, generator, weight)
        whole = _norm(lambda x: x @ weight.T, lambda y: y @ weight, probes)
    return moved / whole if whole > 0 else math.inf


@contextlib.contextmanager
def _dense_base(layer: Any) -> Iterator[Tensor]:
    """Replace a layer's base by a dense float32 copy for a block, with dropout off.

    In half precision small changes would be lost to rounding, and shards and packed bits cannot be
    multiplied.

    Yields:
        The dense weight.
    """
    base, training = layer.base_layer, layer.training
    quantised = layer.quantization_backend is not None
    weight = (layer.get_base_weight() if quantised else dequantize_module_weight(base)).detach()
    if isinstance(weight, DTensor):  # Sharded by FSDP2.
        weight = weight.full_tensor()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    with torch.device("meta"):
        copy = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    copy.weight = nn.Parameter(weight, requires_grad=False)
    layer.base_layer = copy
    layer.eval()
    try:
        with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
            yield weight
    finally:
        layer.train(training)  # Before the base is back, since it keeps its own mode.
        layer.base_layer = base


def _norm(
    apply: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor], probes: Tensor
) -> float:
    """Return the largest singular value of a linear map, by block power iteration on rows."""
    outputs = apply(_orthonormal(probes))
    for _ in range(ITERATIONS):
        if not bool(torch.isfinite(outputs).all()):
            return math.inf
        outputs = apply(_orthonormal(transposed(_orthonormal(outputs))))
    return float(torch.linalg.matrix_norm(outputs, 2))


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T)[0].T


def _random_rows(count: int, width: int, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(count, width, generator=generator, dtype=torch.float64).to(like)


@torch.no_grad()
def _set(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _sample(layers: Mapping[str, BaseTunerLayer], count: int) -> list[BaseTunerLayer]:
    kinds: dict[str, list[BaseTunerLayer]] = {}
    for name, layer in layers.items():
        last = [piece for piece in name.split(".") if not piece.isdigit()][-1:]
        kinds.setdefault("".join(last), []).append(layer)
    total = len(kinds) * math.ceil(count / len(kinds))
    chosen: dict[int, BaseTunerLayer] = {}
    for number in range(total):
        own = list(kinds.values())[number % len(kinds)]
        layer = own[int((number + 0.5) / total * len(own))]
        chosen[id(layer)] = layer
    return list(chosen.values())
