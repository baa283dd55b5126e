"""NoRA's fused layers: products of all layers at once give what each layer gives by itself."""

import pytest
import torch
from support.stacked import OUT, TARGETS, WIDTH, network, trained
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.nora.layer import NoraLinear
from nora_studio.nora.product_linear import ProductLinears
from nora_studio.nora.products import NoraProducts
from nora_studio.nora.shared_input import SharedInput, find_shared


def adapted(dtype: torch.dtype = torch.float64, **changes) -> nn.Sequential:
    """The network with NoRA on its three layers."""
    made = network(dtype)
    attach(made, TARGETS, AdapterSpec("nora", 3, outer_rank=12, alpha=5.0, **changes))
    return made


@pytest.mark.parametrize("changes", [{}, {"start": "paper"}, {"dropout": 0.3}], ids=str)
def test_training_with_products_equals_training_without(changes):
    losses, weights = trained(adapted(**changes), None, 0.05)
    model = adapted(**changes)
    others, fused = trained(model, NoraProducts([model]), 0.05)
    assert losses[-1] < 0.95 * losses[0]
    assert others == pytest.approx(losses, rel=1e-12)
    for one, other in zip(weights, fused, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_layers_output_and_gradients_are_the_formulas():
    model = adapted()
    layer = model[0]
    assert isinstance(layer, NoraLinear)
    up, down = (one.double() for one in layer.outer_pair("default"))
    inner_up, inner_down = layer.nora_inner_up["default"], layer.nora_inner_down["default"]
    with torch.no_grad():
        inner_up.add_(0.1)
        inner_down.mul_(1.3)
    start_up = layer.nora_inner_up_start["default"].clone()  # type: ignore[operator]
    start_down = layer.nora_inner_down_start["default"].clone()  # type: ignore[operator]
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    left, right = (one.detach().clone().requires_grad_() for one in (inner_up, inner_down))
    weight = layer.base_layer.weight + 5 / 3 * up @ (left @ right - start_up @ start_down) @ down
    expected = x @ weight.T + layer.base_layer.bias
    probe = torch.randn(expected.shape, dtype=torch.float64)
    wanted = torch.autograd.grad((expected * probe).sum(), [x, left, right])
    products = NoraProducts([model])
    products.form()
    output = layer(x)
    (output * probe).sum().backward()
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    for found, one in zip([x.grad, inner_up.grad, inner_down.grad], wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_untouched_adapter_adds_exact_zeros(dtype):
    model, x = adapted(dtype), torch.randn(7, WIDTH, dtype=dtype)
    products = NoraProducts([model])
    products.form()
    layer = model[0]
    assert isinstance(layer, NoraLinear)
    assert layer.product is not None
    assert not layer.product.any()
    assert torch.equal(layer(x), layer.base_layer(x))


def test_outside_a_step_the_layers_compute_by_themselves():
    model, x = adapted(), torch.randn(3, WIDTH, dtype=torch.float64)
    products = NoraProducts([model])
    before = model(x)
    products.form()
    with torch.no_grad():  # As a preview within a step would.
        assert torch.equal(model(x), before)
    products.drop()
    assert torch.equal(model(x), before)


def test_the_optimizers_parameters_are_slices_that_keep_their_values():
    model = adapted()
    before = {name: p.detach().clone() for name, p in adapter_parameters(model).items()}
    stacks = NoraProducts([model]).stacks
    for name, parameter in adapter_parameters(model).items():
        assert torch.equal(parameter, before[name])
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.fill_(2.0)
    assert all(bool((stack.whole == 2).all()) for stack in stacks)


class Attention(nn.Module):
    """Three layers that are called with one tensor, by diffusers' names."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(WIDTH, OUT) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.to_q(x) * self.to_k(x)).tanh() + self.to_v(x)


def attention() -> Attention:
    torch.manual_seed(3)
    made = Attention().double()
    attach(made, ["to_q", "to_k", "to_v"], AdapterSpec("nora", 2, outer_rank=8))
    with torch.no_grad():
        for parameter in adapter_parameters(made).values():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made


def test_q_k_and_v_computed_together_equal_each_alone():
    model = attention()
    x = torch.randn(2, 6, WIDTH, dtype=torch.float64, requires_grad=True)
    layers = [layer for layer in model.children() if isinstance(layer, NoraLinear)]
    (block,) = find_shared([model], layers)
    assert block == layers
    alone = NoraProducts([model])  # On a CPU each layer is computed by itself.
    alone.form()
    output = model(x)
    probe = torch.randn(output.shape, dtype=torch.float64)
    products = [layer.product for layer in layers if layer.product is not None]
    assert len(products) == 3
    wanted = torch.autograd.grad((output * probe).sum(), [x, *products], retain_graph=True)
    weights = [layer.base_layer.weight.detach().clone() for layer in layers]
    shared = SharedInput(layers, "default")
    for layer, weight in zip(layers, weights, strict=True):
        assert torch.equal(layer.base_layer.weight, weight)
        assert layer.base_layer.weight.untyped_storage().data_ptr() == (
            shared.weight.untyped_storage().data_ptr()
        )
    together = torch.stack([one.detach() for one in products]).requires_grad_()
    shared.products = together
    q, k, v = (shared.output(layer, x) for layer in layers)
    joint = (q * k).tanh() + v
    torch.testing.assert_close(joint, output, rtol=1e-10, atol=1e-10)
    found = torch.autograd.grad((joint * probe).sum(), [x, together])
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found[1], torch.stack(wanted[1:]), rtol=1e-9, atol=1e-10)


def test_a_layer_called_with_another_tensor_computes_for_that():
    model = attention()
    layers = [layer for layer in model.children() if isinstance(layer, NoraLinear)]
    shared = SharedInput(layers, "default")
    shared.products = torch.randn(3, 8, OUT, dtype=torch.float64)
    x, other = (torch.randn(4, WIDTH, dtype=torch.float64) for _ in range(2))
    first = shared.output(layers[0], x)
    second = shared.output(layers[1], other)
    whole = (
        ProductLinears.apply(one, shared.weight, shared.bias, shared.down, shared.products)
        for one in (x, other)
    )
    for index, (found, expected) in enumerate(zip((first, second), whole, strict=True)):
        assert isinstance(expected, Tensor)
        assert torch.equal(found, expected.chunk(3, dim=-1)[index])


def test_weights_that_are_stacked_already_are_not_copied():
    model = attention()
    layers = [layer for layer in model.children() if isinstance(layer, NoraLinear)]
    first = SharedInput(layers, "default")
    second = SharedInput(layers, "default")  # As for a twin on the same base.
    assert second.weight.data_ptr() == first.weight.data_ptr()
    assert second.down.data_ptr() == first.down.data_ptr()
