"""One NoRA layer against the dense float64 formula, in every dtype and with both starts."""

import pytest
import reference
import torch
from support.any_module import AnyModule
from support.tolerances import TOLERANCE
from torch import nn
from torch.utils.checkpoint import checkpoint

from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]
STARTS = ["difference", "paper"]
ROWS, COLUMNS, OUTER, RANK, ALPHA = 40, 24, 12, 4, 6.0


def make_layer(
    dtype: torch.dtype = torch.float32,
    start: str = "difference",
    outer: str = "svd",
    moved: bool = False,
    dropout: float = 0.0,
) -> AnyModule:
    """A layer with one adapter, `moved` as if trained, on a weight whose products are about one."""
    torch.manual_seed(0)
    base = nn.Linear(COLUMNS, ROWS).requires_grad_(False).to(dtype)
    statistics = {"layer": torch.linspace(0.5, 2.0, COLUMNS)}
    config = NoraConfig(
        r=RANK,
        outer_rank=OUTER,
        alpha=ALPHA,
        start=start,
        outer=outer,
        dropout=dropout,
        mean_abs_inputs=statistics if outer == "activation" else None,
    )
    layer = NoraLinear(base, "layer")
    layer.update_layer("default", config, RANK, ALPHA, "layer")
    layer.set_adapter("default")
    if moved:
        move(layer)
    return layer


def move(layer: NoraLinear, size: float = 0.2, adapter_name: str = "default") -> None:
    generator = torch.Generator().manual_seed(7)
    for factors in (layer.nora_inner_up, layer.nora_inner_down):
        factor = factors[adapter_name]
        noise = torch.randn(factor.shape, generator=generator, dtype=torch.float64) * size
        factor.data += noise.to(factor.dtype)


def inputs(dtype: torch.dtype, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, COLUMNS, generator=generator, dtype=torch.float64).to(dtype)


def dense_delta(layer: AnyModule, scale: float = ALPHA / RANK) -> torch.Tensor:
    return reference.nora_delta(
        layer.nora_up["default"],
        layer.nora_inner_up["default"].detach(),
        layer.nora_inner_down["default"].detach(),
        layer.nora_down["default"],
        layer.nora_inner_up_start["default"],
        layer.nora_inner_down_start["default"],
        scale,
    )


def dense_forward(layer: NoraLinear, x: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    return reference.linear(x, layer.base_layer.weight, layer.base_layer.bias, delta)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
def test_forward_equals_the_formula(dtype, start):
    layer, x = make_layer(dtype, start, moved=True), inputs(dtype)
    expected = dense_forward(layer, x, dense_delta(layer))
    assert float(dense_delta(layer).norm()) > 0.3, "the update must matter for this to be a test"
    output = layer(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, **TOLERANCE[dtype])


def test_the_tolerance_detects_a_scale_wrong_by_a_thousandth():
    layer, x = make_layer(moved=True), inputs(torch.float32)
    layer.scaling["default"] *= 1.001
    expected = dense_forward(layer, x, dense_delta(layer))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(layer(x).double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
def test_delta_weight_equals_the_formula(dtype, start):
    layer = make_layer(dtype, start, moved=True)
    delta = layer.get_delta_weight("default")
    assert delta.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(delta.double(), dense_delta(layer), **TOLERANCE[delta.dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
def test_gradients_of_the_inner_factors_equal_the_formula(dtype, start):
    layer, x = make_layer(dtype, start, moved=True), inputs(dtype)
    layer(x).double().square().mean().backward()
    dense = (
        layer.nora_inner_up["default"].detach().double().requires_grad_(),
        layer.nora_inner_down["default"].detach().double().requires_grad_(),
    )
    delta = reference.nora_delta(
        layer.nora_up["default"],
        *dense,
        layer.nora_down["default"],
        layer.nora_inner_up_start["default"],
        layer.nora_inner_down_start["default"],
        ALPHA / RANK,
    )
    dense_forward(layer, x, delta).square().mean().backward()
    assert float(dense[0].grad.norm()) > 0.05
    for factors, expected in zip((layer.nora_inner_up, layer.nora_inner_down), dense, strict=True):
        grad = factors["default"].grad
        torch.testing.assert_close(grad.double(), expected.grad, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outer", ["svd", "randomized", "activation"])
def test_delta_is_exactly_zero_at_the_start(dtype, outer):
    layer, x = make_layer(dtype, outer=outer), inputs(dtype)
    assert not layer.get_delta_weight("default").any()
    assert torch.equal(layer(x), layer.base_layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer.base_layer(x))
    layer.to(torch.bfloat16)
    x = x.to(torch.bfloat16)
    assert torch.equal(layer(x), layer.base_layer(x)), "rounding the factors must keep the zero"


@pytest.mark.parametrize("start", STARTS)
def test_gradient_flows_from_the_first_step(start):
    layer = make_layer(start=start)
    layer(inputs(torch.float32)).square().mean().backward()
    assert float(layer.nora_inner_up["default"].grad.norm()) > 1e-3
    assert float(layer.nora_inner_down["default"].grad.norm()) > 1e-3


def test_paper_start_adds_the_top_singular_directions_once_more():
    layer = make_layer(start="paper")
    up, root, down = reference.nora_factors(layer.base_layer.weight, OUTER, RANK)
    expected = ALPHA / RANK * up[:, :RANK] * root**2 @ down[:RANK]
    torch.testing.assert_close(
        layer.get_delta_weight("default").double(), expected, **TOLERANCE[torch.float32]
    )


def test_inner_factors_start_as_the_root_of_the_singular_values():
    layer = make_layer()
    _, root, _ = reference.nora_factors(layer.base_layer.weight, OUTER, RANK)
    expected = torch.zeros(OUTER, RANK, dtype=torch.float64)
    expected.diagonal().copy_(root)
    for factor in (layer.nora_inner_up["default"], layer.nora_inner_down["default"].T):
        torch.testing.assert_close(factor.double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_base_keeps_the_trained_factors_in_float32(dtype):
    layer = make_layer(dtype)
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    assert set(trained) == {"nora_inner_up.default", "nora_inner_down.default"}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    assert layer.nora_inner_up_start["default"].dtype == torch.float32
    assert layer.nora_up["default"].dtype == layer.nora_down["default"].dtype == dtype
    assert sum(p.numel() for p in trained.values()) == reference.nora_parameters(1, OUTER, RANK)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("safe", [False, True])
def test_merge_keeps_the_output_and_unmerge_restores_the_weight(dtype, safe):
    layer, x = make_layer(dtype, moved=True), inputs(dtype)
    expected, weight = layer(x), layer.base_layer.weight.clone()
    layer.merge(safe_merge=safe)
    assert layer.merged and not torch.equal(layer.base_layer.weight, weight)
    assert torch.equal(layer(x), layer.base_layer(x))
    torch.testing.assert_close(layer(x), expected, **TOLERANCE[dtype])
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight, weight, **TOLERANCE[dtype])
    torch.testing.assert_close(layer(x), expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_merging_an_untrained_adapter_changes_no_bit(dtype):
    layer = make_layer(dtype)
    weight = layer.base_layer.weight.clone()
    layer.merge()
    assert torch.equal(layer.base_layer.weight, weight)


def test_safe_merge_refuses_a_broken_adapter_and_leaves_the_weight():
    layer = make_layer()
    weight = layer.base_layer.weight.clone()
    layer.nora_inner_up["default"].data[0, 0] = float("nan")
    with pytest.raises(
        StudioError, match="default seems to be broken: it would make a 40x24 weight NaN"
    ):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight) and not layer.merged


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", STARTS)
def test_lora_factors_reproduce_the_update(dtype, start):
    layer = make_layer(dtype, start, moved=True)
    lora_up, lora_down = layer.lora_factors("default")
    assert lora_up.shape == (ROWS, 2 * RANK) and lora_down.shape == (2 * RANK, COLUMNS)
    delta = reference.lora_delta(lora_up, lora_down, 1.0)
    torch.testing.assert_close(delta, dense_delta(layer), **TOLERANCE[lora_up.dtype])


@pytest.mark.parametrize("dtype", HALVES)
def test_lora_factors_of_a_small_update_survive_a_half_precision_file(dtype):
    layer = make_layer()
    move(layer, size=1e-3)
    lora_up, lora_down = (factor.to(dtype) for factor in layer.lora_factors("default"))
    expected = dense_delta(layer)
    error = (reference.lora_delta(lora_up, lora_down, 1.0) - expected).norm() / expected.norm()
    assert float(error) < 4 * torch.finfo(dtype).eps


def test_scale_can_be_set_multiplied_and_restored():
    layer, x = make_layer(moved=True), inputs(torch.float32)
    for change, scale in (
        (lambda: layer.set_scale("default", 2.0), 2.0),
        (lambda: layer.scale_layer(0.25), 0.5),
        (lambda: layer.unscale_layer(0.5), 1.0),
        (lambda: layer.scale_layer(3.0), 3.0),
        (lambda: layer.unscale_layer(), 1.0),
        (lambda: layer.set_scale("absent", 9.0), 1.0),
    ):
        change()
        expected = dense_forward(layer, x, dense_delta(layer, scale * ALPHA / RANK))
        torch.testing.assert_close(layer(x).double(), expected, **TOLERANCE[torch.float32])


def test_active_adapters_add_up_and_a_deleted_one_leaves_no_trace():
    layer, x = make_layer(moved=True), inputs(torch.float32)
    config = NoraConfig(r=2, outer_rank=8)
    layer.update_layer("second", config, 2, 2.0, "layer")
    move(layer, 0.3, "second")
    deltas = {name: layer.get_delta_weight(name).double() for name in ("default", "second")}
    for active in (["default"], ["second"], ["default", "second"]):
        layer.set_adapter(active)
        expected = dense_forward(layer, x, sum((deltas[name] for name in active), torch.zeros(())))
        torch.testing.assert_close(layer(x).double(), expected, **TOLERANCE[torch.float32])
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer.enable_adapters(True)
    assert layer.r == {"default": RANK, "second": 2}
    layer.delete_adapter("default")
    assert layer.active_adapters == ["second"]
    assert not [key for key in layer.state_dict() if key.endswith(".default")]
    assert layer.nora_alpha == {"second": 2.0} and layer.outer_rank == {"second": 8}
    assert layer.r == {"second": 2} and layer.scaling == {"second": 1.0}


def test_dropout_acts_in_training_only_and_on_the_update_only():
    layer, x = make_layer(moved=True, dropout=0.5), inputs(torch.float32)
    still = make_layer(moved=True)
    assert torch.equal(layer.eval()(x), still(x))
    assert not torch.equal(layer.train()(x), still(x))
    layer.set_scale("default", 0.0)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, saved, x = make_layer(moved=True), make_layer(moved=True), inputs(torch.float32)
    plain(x).square().mean().backward()
    checkpoint(saved, x, use_reentrant=False).square().mean().backward()
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, saved.get_parameter(name).grad)


def test_unfilled_factors_give_nan():
    layer = make_layer()
    config = NoraConfig(r=RANK, outer_rank=OUTER, init_weights=False)
    layer.update_layer("default", config, RANK, ALPHA, "layer")
    assert bool(layer(inputs(torch.float32)).isnan().all())


def test_meta_base_gets_shapes_and_no_decomposition():
    layer = NoraLinear(nn.Linear(COLUMNS, ROWS, device="meta"), "layer")
    layer.update_layer("default", NoraConfig(outer_rank=OUTER), RANK, ALPHA, "layer")
    shapes = {key: tuple(value.shape) for key, value in layer.state_dict().items()}
    assert all(value.is_meta for value in layer.state_dict().values())
    assert shapes["nora_up.default"] == (ROWS, OUTER)
    assert shapes["nora_down.default"] == (OUTER, COLUMNS)
    assert shapes["nora_inner_up.default"] == shapes["nora_inner_up_start.default"] == (OUTER, RANK)
