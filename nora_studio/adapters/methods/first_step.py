"""How far an adapter's first step moves a weight: what makes learning rates comparable.

The same rate means different things to different methods: it is a step of each trained number, and
what such a step does to the weight W of a layer depends on scale, ranks, frozen factors and start.
Measured here is the change itself: the spectral norm of (delta W after one step - delta W before),
over the largest singular value of W.
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

from nora_studio.adapters.methods.injection import tuner_layers

LARGEST = 0.25
ROOT_STEPS = 6.0
"""A first step is too large above `LARGEST`, or above `ROOT_STEPS` over the root of the steps.

Adam's steps stay about as large as the first. Where their directions are independent they add up as
the root of their number: at this limit to six times the weight's largest singular value, after
which nothing of what the base knew is left in charge. Measured: of the rates that a search on
validation pictures or photos chose here, the largest moves a weight by 22% (LoRA+, 640 steps, 5.7
times after them), NoRA's by 7% (120 steps) and 18% (640 steps); those of published recipes on real
models by 0.02% to 1%. No rate above 25% won a search.
"""
LAYERS = 6
"""Sampled of each part, or one of each kind of layer where there are more kinds."""
PROBES = 8
ITERATIONS = 4
"""Of block power iteration, which finds the norms of a trained model's weights to about 2%."""


@dataclass(frozen=True)
class FirstStep:
    """How far the first step moves the weights of one part, over their largest singular values."""

    median: float
    largest: float
    layers: int
    """How many were sampled."""


def first_steps(
    parts: Mapping[str, nn.Module], optimizer: Any, layers: int = LAYERS
) -> dict[str, FirstStep]:
    """Measure the first step on a few layers of each part, at the peak learning rates.

    No random state of torch's is read or changed, and the model is afterwards what it was to the
    bit. With the base in shards, every process has to call it.

    Args:
        parts: Adapted modules, as before the first step.
        optimizer: Over their trained weights.
        layers: At least so many of each part, if it has them; of every kind in turn, spread from
            the first block to the last.
    """
    rates = step_rates(optimizer)
    found = {}
    for part, module in parts.items():
        chosen = _sample(tuner_layers(module), layers)
        shares = [first_step(layer, rates) for layer in chosen]
        # A weight of zeros or NaN has no share; the loss will tell of the latter.
        shares = [share for share in shares if math.isfinite(share)]
        if shares:
            found[part] = FirstStep(statistics.median(shares), max(shares), len(shares))
    return found


def limit_of(steps: int) -> float:
    """Above which share of a weight's largest singular value a first step is too large."""
    return min(LARGEST, ROOT_STEPS / math.sqrt(max(1, steps)))


def as_lines(method: str, found: Mapping[str, FirstStep], steps: int, optimizer: Any) -> list[str]:
    """What was measured, as a person reads it: one line, and a warning for each part above it."""
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
            # The change goes about with the rate.
            rate = group.get("initial_lr", group["lr"]) * limit / step.largest
            flag = f"--{part.replace('_', '-')}.learning-rate"
            remedy = f"Lower {flag} to {_rounded_down(rate)} or less."
        lines.append(
            f"warning: {method}: the learning rate of {part} is too large: its first step moves a "
            f"weight by {_percent(step.largest)} of its largest singular value; over {steps:,} "
            f"steps at most {_percent(limit)} goes well. {remedy}"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _rounded_down(rate: float) -> str:
    """To one digit."""
    power = 10.0 ** math.floor(math.log10(rate))
    return f"{math.floor(rate / power + 1e-9) * power:.0e}"


def step_rates(optimizer: Any) -> dict[nn.Parameter, float]:
    """By how much each number's first full step is: the peak rate, or where Prodigy begins."""
    return {
        parameter: group.get("initial_lr", group["lr"])
        * (group["share"] * group["d0"] if "share" in group else 1.0)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def first_step(layer: Any, rates: Mapping[nn.Parameter, float]) -> float:
    """Measure the first step of one adapted layer, over the largest singular value of its weight.

    Infinite or NaN where the weight is all zeros or not finite.

    Adam's first step moves every number by its rate against the gradient's sign, and Lion's does;
    where the gradient is zero, as of LoRA's `down`, nothing moves. The gradient taken is that of
    one token, u v^T for the weight, with u and v drawn from a generator of its own. All signs of a
    factor then agree on one direction, as in a batch whose tokens agree: about the largest step
    that the rate can make. Real first batches of 16 questions move the embedded language model by
    0.6 (LoRA, NoRA) to 1.0 (OFT) times as much.

    Args:
        layer: With its adapter active and as before the first step; unchanged afterwards.
        rates: Of its trained weights; those of other layers may be there too.
    """
    with _alone(layer) as weight:
        trained = [p for p in layer.parameters() if p.requires_grad and p in rates]
        before = [parameter.detach().clone() for parameter in trained]
        generator = torch.Generator().manual_seed(0)
        token = _draw(1, layer.in_features, generator, weight)
        loss = (layer(token) * _draw(1, layer.out_features, generator, weight)).sum()
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        after = [
            start if gradient is None else start - rates[parameter] * gradient.sign()
            for parameter, start, gradient in zip(trained, before, gradients, strict=True)
        ]

        def under(values: list[Tensor], inputs: Tensor) -> Tensor:
            _set(trained, values)
            return layer(inputs)

        def change(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return under(after, inputs) - under(before, inputs)

        def back(outputs: Tensor) -> Tensor:
            pulled = []
            for values in (after, before):
                # The layer is linear in its input: any will do.
                inputs = outputs.new_zeros(len(outputs), layer.in_features, requires_grad=True)
                pulled.append(torch.autograd.grad(under(values, inputs), inputs, outputs)[0])
            return pulled[0] - pulled[1]

        try:
            moved = _norm(change, back, _draw(PROBES, layer.in_features, generator, weight))
        finally:
            _set(trained, before)
        probes = _draw(PROBES, layer.in_features, generator, weight)
        whole = _norm(lambda x: x @ weight.T, lambda y: y @ weight, probes)
    return moved / whole if whole > 0 else math.inf


@contextlib.contextmanager
def _alone(layer: Any) -> Iterator[Tensor]:
    """A block in which a layer's base is a whole float32 copy, and dropout is off.

    Small changes would drown in half precision, and shards and packed bits cannot be multiplied.
    """
    base, training = layer.base_layer, layer.training
    quantised = layer.quantization_backend is not None
    weight = (layer.get_base_weight() if quantised else dequantize_module_weight(base)).detach()
    if isinstance(weight, DTensor):  # In shards (FSDP2).
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
        layer.train(training)  # The copy alone with it: the base keeps its own mode.
        layer.base_layer = base


def _norm(
    apply: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor], probes: Tensor
) -> float:
    """The largest singular value of a linear map, by block power iteration on rows."""
    answers = apply(_orthonormal(probes))
    for _ in range(ITERATIONS):
        if not bool(torch.isfinite(answers).all()):
            return math.inf
        answers = apply(_orthonormal(transposed(_orthonormal(answers))))
    return float(torch.linalg.matrix_norm(answers, 2))


def _orthonormal(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T)[0].T


def _draw(count: int, width: int, generator: torch.Generator, like: Tensor) -> Tensor:
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
