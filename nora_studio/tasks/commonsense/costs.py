"""Measure a training step on full-size language models: time, memory and a profile."""

import gc
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.adapters.methods.table import METHODS
from nora_studio.nora.svd import Factors, truncated_svd
from nora_studio.runs.strict_json import JsonObject
from nora_studio.sdxl.models import share_weights
from nora_studio.sdxl.shapes import shapes_of
from nora_studio.tasks.commonsense.examples import Example, collate
from nora_studio.tasks.commonsense.step import AnswerStep
from nora_studio.trainer.acceleration import prepare_accelerator, prepared
from nora_studio.trainer.build import trained_parameters

PART = "decoder"
LANGUAGE = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
QUERY_VALUE = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Variant:
    """A row of the table: an adapter, and the layers that it is on."""

    label: str
    spec: AdapterSpec | None
    """None for the base alone, forward and backward."""
    targets: tuple[str, ...] = LANGUAGE
    is_reference: bool = False
    """Whether the ratios of other rows are relative to it."""


def _spec(method: str, rank: int, outer_rank: int | None = None) -> AdapterSpec:
    total = 1000 if method == "adalora" else None
    return AdapterSpec(method, rank, outer_rank=outer_rank, total_steps=total)


VARIANTS: dict[str, tuple[Variant, ...]] = {
    "llama-1-7b": (
        Variant("LoRA 16 (q, v)", _spec("lora", 16), QUERY_VALUE, is_reference=True),
        Variant("NoRA 800 x 32", _spec("nora", 32, 800)),
        Variant("LoRA 32 (q, v)", _spec("lora", 32), QUERY_VALUE),
        Variant("LoRA 16", _spec("lora", 16)),
        Variant("LoKr 16", _spec("lokr", 16)),
        Variant("AdaLoRA 16", _spec("adalora", 16)),
        Variant("base alone", None),
    ),
    "llama-3-8b": (
        Variant("LoRA 16", _spec("lora", 16), is_reference=True),
        Variant("NoRA 700 x 32", _spec("nora", 32, 700)),
        Variant("NoRA 704 x 32", _spec("nora", 32, 704)),
        Variant("LoRA 32", _spec("lora", 32)),
        Variant("LoKr 16", _spec("lokr", 16)),
        Variant("AdaLoRA 16", _spec("adalora", 16)),
        Variant("base alone", None),
    ),
}
"""Rows of the paper's Table 1, by shape (`shapes.BUILT_IN`); its LoRA of LLaMA-1 adapts q and v."""


def random_outer_factors(
    weight: Tensor, rank: int, outer: str, mean_abs_input: Tensor | None = None
) -> Factors:
    """Return random orthonormal outer factors: a step's cost does not depend on their values."""
    rows, columns = weight.shape
    up, down = (
        torch.linalg.qr(torch.randn(side, rank, device=weight.device))[0]
        for side in (rows, columns)
    )
    return up, torch.ones(rank, device=weight.device), down.T.contiguous()


def build_base(shape: str, device: torch.device, layers: int | None = None) -> nn.Module:
    """Build a frozen model of a shape with random weights on a device, in bfloat16.

    Args:
        layers: Number of blocks, fewer than the shape has, for a trial.
    """
    skeleton: Any = shapes_of(shape)["model"]
    config = skeleton.config
    if layers is not None:
        config.num_hidden_layers = layers
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            base = type(skeleton)(config)
    finally:
        torch.set_default_dtype(before)
    return base.requires_grad_(False).eval()


def measure(
    base: nn.Module, variant: Variant, rows: int, tokens: int, steps: int, profiled: bool
) -> JsonObject:
    """Measure the trainer's own steps on random questions; the base is left without the adapter.

    Returns:
        seconds of each measured step, peak_gib, parameters, and a profile if `profiled`; or
        "failed", with the error, if the device ran out of memory.
    """
    device = next(base.parameters()).device
    try:
        return _measure(base, variant, rows, tokens, steps, profiled)
    except torch.OutOfMemoryError as error:
        return {"failed": str(error).partition(".")[0]}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _measure(
    base: nn.Module, variant: Variant, rows: int, tokens: int, steps: int, profiled: bool
) -> JsonObject:
    device = next(base.parameters()).device
    runner = StepRunner.on(base, variant, "bf16" if device.type == "cuda" else "no")
    batch = _batch(runner.vocabulary, rows, tokens, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(1, steps + 4):
        began = time.perf_counter()
        runner.advance(number, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - began, 5))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    found: JsonObject = {
        "parameters": sum(parameter.numel() for parameter in runner.parameters),
        "seconds": seconds[3:],  # The first ones are a warm-up.
        "seconds_per_step": statistics.median(seconds[3:]),
        "tokens_per_second": round(rows * tokens / statistics.median(seconds[3:])),
        "peak_gib": None if peak is None else round(peak, 2),
        "extra_flops": extra_flops(base, variant, rows * tokens),
    }
    if profiled:
        found["profile"] = _profile(lambda: runner.advance(steps + 4, batch), device)
    runner.accelerator.free_memory()
    return found


@dataclass(frozen=True)
class StepRunner:
    """Runs the trainer's steps on a model."""

    model: nn.Module
    parameters: list[nn.Parameter]
    optimizer: Any
    """None if nothing is trained."""
    rules: StepRules
    accelerator: Accelerator
    vocabulary: int

    @classmethod
    def on(cls, base: nn.Module, variant: Variant, mixed_precision: str) -> "StepRunner":
        """Attach a variant's adapter to a model that shares the base's weights."""
        decoder: Any = share_weights(base)
        parts: dict[str, nn.Module] = {PART: decoder}
        method = "lora" if variant.spec is None else variant.spec.method
        if variant.spec is None:
            decoder.enable_input_require_grads()
        else:
            random = "find_outer" in METHODS[method].settings
            find_outer = random_outer_factors if random else None
            attach(decoder, list(variant.targets), replace(variant.spec, find_outer=find_outer))
        rules = METHODS[method].steps(parts, 0)
        step = AnswerStep(decoder, rules)
        parameters = trained_parameters(parts) if variant.spec else []
        accelerator = prepare_accelerator(mixed_precision)
        optimizer: Any = make_optimizer(method, parts, {PART: 3e-4}, 0.0) if parameters else None
        model: nn.Module = step.train()
        if optimizer is None:
            model = accelerator.prepare_model(model)
        else:
            model, optimizer = prepared(accelerator, model, optimizer)
        vocabulary = decoder.config.vocab_size
        return cls(model, parameters, optimizer, rules, accelerator, vocabulary)

    def forward_and_backward(self, number: int, batch: Mapping[str, Tensor]) -> None:
        """Run step `number`, counted from 1, up to the clipped gradients."""
        self.rules.before_step(number)
        self.accelerator.backward(self.model(**batch))
        if self.optimizer is not None:
            self.accelerator.clip_grad_norm_(self.parameters, 1.0)

    def advance(self, number: int, batch: Mapping[str, Tensor]) -> None:
        """Run the whole of step `number`."""
        self.forward_and_backward(number, batch)
        if self.optimizer is not None:
            self.optimizer.step()
            self.rules.after_step(number)
            self.optimizer.zero_grad()


def _batch(vocabulary: int, rows: int, tokens: int, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (rows, tokens), generator=generator).tolist()
    batch = collate([Example(tuple(row), 0) for row in ids], 0)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _profile(advance: Any, device: torch.device) -> list[str]:
    """Return the operations of a step that take the most time, a line each."""
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        advance()
    events = sorted(found.key_averages(), key=lambda e: -_self_time(e, on_gpu))[:14]
    total = sum(_self_time(event, on_gpu) for event in found.key_averages()) or 1
    return [
        f"{_self_time(e, on_gpu) / 1e3:9.1f} ms {_self_time(e, on_gpu) / total:6.1%} "
        f"{e.count:6d} x {e.key[:80]}"
        for e in events
    ]


def _self_time(event: Any, on_gpu: bool) -> float:
    """Return the microseconds spent in an operation itself, without those that it calls."""
    return event.self_device_time_total if on_gpu else event.self_cpu_time_total


def extra_flops(base: nn.Module, variant: Variant, tokens: int) -> float | None:
    """Compute the multiplications that an adapter adds to a step, relative to the frozen base's.

    The base's are those of every linear layer, forward and backward to its input, without those of
    attention itself. None for methods without a formula here.
    """
    linear = {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear)}
    whole = sum(4 * m.in_features * m.out_features for m in linear.values()) * tokens
    spec = variant.spec
    if spec is None:
        return 0.0
    extra = 0.0
    for name, layer in linear.items():
        if name.rpartition(".")[2] not in variant.targets:
            continue
        rows, columns, rank = layer.out_features, layer.in_features, spec.rank
        if spec.method == "nora":
            outer = spec.outer_rank or 0
            each = 2 * outer * columns + 8 * rank * outer + rank * (10 * rows + 4 * columns)
            once = 2 * rank * outer * (3 * rows + 2 * columns)
            extra += each * tokens + once
        elif spec.method == "lora":
            extra += 6 * rank * (rows + columns) * tokens
        else:
            return None
    return round(extra / whole, 4)


def svd_seconds(shape: str, rank: int, device: torch.device) -> dict[str, float]:
    """Measure the seconds of an exact SVD for each size of adapted layer; extrapolate to all."""
    layers = [
        (m.out_features, m.in_features)
        for n, m in shapes_of(shape)["model"].named_modules()
        if isinstance(m, nn.Linear) and n.rpartition(".")[2] in LANGUAGE
    ]
    found: dict[str, float] = {}
    for size in sorted(set(layers)):
        weight = torch.randn(size, device=device)
        began = time.perf_counter()
        up, _, _ = truncated_svd(weight, rank)
        up.sum().item()
        found["x".join(map(str, size))] = round(time.perf_counter() - began, 2)
    total = sum(found["x".join(map(str, size))] for size in layers)
    return {**found, "all layers, extrapolated": round(total, 1)}
