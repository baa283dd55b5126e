"""The fused update equals the plain one, and keeps less for the backward pass."""

import pytest
import reference
import torch
from support.tolerances import TOLERANCE
from torch import nn

from nora_studio.nora import NoraConfig, NoraLinear
from nora_studio.nora.fused_update import is_cheaper

ROWS, COLUMNS, OUTER, RANK, ALPHA = 72, 80, 64, 2, 3.0
TOKENS = (3, 40)
NAMES = ("nora_inner_up", "nora_inner_down")


def make_layer(dtype: torch.dtype = torch.float32, start: str = "difference") -> NoraLinear:
    """A layer whose adapter has left its start."""
    torch.manual_seed(0)
    base = nn.Linear(COLUMNS, ROWS).requires_grad_(False).to(dtype)
    config = NoraConfig(r=RANK, outer_rank=OUTER, alpha=ALPHA, start=start)
    layer = NoraLinear(base, "layer")
    layer.update_layer("default", config, RANK, ALPHA, "layer")
    layer.set_adapter("default")
    for name in NAMES:
        factor = getattr(layer, name)["default"]
        factor.data += 0.2 * torch.randn_like(factor)
    return layer


def inputs(dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*TOKENS, COLUMNS, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_()


def gradients(layer: NoraLinear, x: torch.Tensor) -> list[torch.Tensor]:
    """Gradients of an uneven sum of the output, by both inner factors and the input."""
    output = layer(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    (output * weights.to(output.dtype)).sum().backward()
    assert x.grad is not None
    found = [getattr(layer, name)["default"].grad for name in NAMES]
    return [gradient.double() for gradient in (*found, x.grad)]


def dense_gradients(layer: NoraLinear, x: torch.Tensor) -> list[torch.Tensor]:
    """The same by autograd through the formula, in float64."""
    up, down = (t.double() for t in layer.outer_pair("default"))
    inner = [getattr(layer, name)["default"].detach().double().requires_grad_() for name in NAMES]
    starts = [getattr(layer, f"{name}_start")["default"].double() for name in NAMES]
    core = inner[0] @ inner[1] - starts[0] @ starts[1]
    wide = x.detach().double().requires_grad_()
    weight = layer.base_layer.weight.double() + ALPHA / RANK * up @ core @ down
    output = wide @ weight.T + layer.base_layer.bias.double()
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output)
    (output * weights).sum().backward()
    return [tensor.grad for tensor in (*inner, wide) if tensor.grad is not None]


def test_the_layers_of_these_tests_use_the_fused_update():
    layer = make_layer()
    assert layer._can_fuse(inputs(torch.float32), torch.zeros(1), "default")
    assert not is_cheaper(100_000, outer_rank=64, rank=8), "SDXL's sizes are not fused"
    assert is_cheaper(4096, outer_rank=800, rank=32)
    assert not is_cheaper(4, outer_rank=800, rank=32), "few tokens are not fused"


@pytest.mark.parametrize("start", ["difference", "paper"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_output_and_gradients_equal_the_formula(dtype, start):
    layer, x = make_layer(dtype, start), inputs(dtype)
    starts = [getattr(layer, f"{name}_start")["default"] for name in NAMES]
    inner = [getattr(layer, name)["default"].detach() for name in NAMES]
    up, down = layer.outer_pair("default")
    delta = reference.nora_delta(up, inner[0], inner[1], down, starts[0], starts[1], ALPHA / RANK)
    expected = reference.linear(x.detach(), layer.base_layer.weight, layer.base_layer.bias, delta)
    output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, **TOLERANCE[dtype])
    for found, wanted in zip(gradients(layer, x), dense_gradients(layer, x), strict=True):
        apart = (found - wanted).norm() / wanted.norm()
        assert apart < 40 * torch.finfo(dtype).eps, f"off by {apart:.2g} of its size"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untrained_adapter_is_the_base_to_the_bit(dtype):
    layer = make_layer(dtype)
    for name in NAMES:
        start = getattr(layer, f"{name}_start")["default"]
        getattr(layer, name)["default"].data.copy_(start)
    x = inputs(dtype)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_a_training_step_keeps_only_activations_as_wide_as_the_ranks():
    layer, x = make_layer(), inputs(torch.float32)
    kept: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x)
    tokens = TOKENS[0] * TOKENS[1]
    activations = [shape for shape in kept if shape[0] == tokens or shape[:2] == TOKENS]
    assert sorted(activations) == [(tokens, 2 * RANK), (tokens, OUTER)]


def test_without_gradients_the_plain_update_is_used():
    layer, x = make_layer(), inputs(torch.float32)
    with torch.no_grad():
        assert not layer._can_fuse(x, layer.base_layer(x), "default")
        torch.testing.assert_close(layer(x), layer(x.detach()))


def test_under_autocast_to_another_dtype_the_plain_update_is_used():
    layer, x = make_layer(), inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert not layer._can_fuse(x, layer.base_layer(x), "default")
