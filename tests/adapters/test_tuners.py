"""The other tuners of this project equal their papers' formulas."""

import pytest
import reference
import torch
from peft import LoraConfig, get_peft_model
from support.any_module import AnyModule
from support.families import FAMILIES, make, train
from support.specs import spec_of
from support.tolerances import FLOAT32_FACTORS, FLOAT32_PRODUCTS, TOLERANCE, Tolerance
from torch import Tensor, nn

from nora_studio.adapters.methods.attachment import adapter_parameters, attach, count_parameters
from nora_studio.adapters.tuners import TiedLoraLinear, sample_rank, set_inference_rank
from nora_studio.errors import StudioError

OURS = ("lora-xs", "dylora", "tied-lora", "pissa", "olora")
WIDTHS = (40, 24)


def block(layers: int = 1) -> AnyModule:
    """Square and oblong layers with the same seeded weights each time."""
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(*(nn.Linear(*WIDTHS) for _ in range(layers)))
    for layer in model:
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def moved(method: str, layers: int = 1, **settings) -> AnyModule:
    """An adapter of rank 4, every trained number far from its start."""
    model = block(layers)
    attach(model, [str(i) for i in range(layers)], spec_of(method, **settings))
    generator = torch.Generator().manual_seed(6)
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def inputs(seed: int = 1) -> Tensor:
    return torch.randn(6, WIDTHS[0], generator=torch.Generator().manual_seed(seed))


def formula(method: str, model: AnyModule, scale: float) -> Tensor:
    """The update of layer 0 as the paper writes it, in float64."""
    layer = model[0]
    weight = layer.base_layer.weight
    trained = {
        name.split(".")[1]: p.double()
        for name, p in adapter_parameters(model).items()
        if name.startswith("0.")
    }
    if method == "lora-xs":
        up, singular, down = reference.leading(weight, 4)
        # A singular pair is free up to its sign; the trained matrix belongs to the layer's choice.
        signs = (up * layer.lora_xs_up["default"]).sum(0).sign()
        up, down = up * signs, singular[:, None] * (signs[:, None] * down)
        return scale * up @ trained["lora_xs_inner"] @ down
    if method == "dylora":
        return scale * trained["dylora_up"] @ trained["dylora_down"]
    if method == "tied-lora":
        up = trained["tied_lora_v"].diag() @ trained["tied_lora_up"]
        return scale * up @ trained["tied_lora_u"].diag() @ trained["tied_lora_down"]
    if method == "pissa":
        up, singular, down = reference.leading(weight, 4)
        start = (up * singular) @ down  # scale B0 A0, whatever the scale
    else:
        columns, rows = torch.linalg.qr(weight.double())
        start = scale * columns[:, :4] @ rows[:4]
    return scale * trained["decomposed_lora_up"] @ trained["decomposed_lora_down"] - start


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("method", OURS)
def test_the_update_equals_the_papers_formula(method, alpha):
    model = moved(method, alpha=alpha)
    delta = formula(method, model, 1.0 if alpha is None else alpha / 4)
    layer = model[0]
    x = inputs()
    expected = reference.linear(x, layer.base_layer.weight, layer.base_layer.bias, delta)
    close: Tolerance = {"rtol": 1e-4, "atol": 1e-5}  # float32 factors of a float32 SVD
    torch.testing.assert_close(model.eval()(x).double(), expected, **close)
    torch.testing.assert_close(layer.get_delta_weight("default").double(), delta, **close)
    up, down = layer.lora_factors("default")
    torch.testing.assert_close((up @ down).double(), delta, **close)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", OURS)
def test_merging_keeps_the_output_and_unmerging_the_weight(method, dtype):
    model = block().to(dtype)
    attach(model, ["0"], spec_of(method))
    for parameter in adapter_parameters(model).values():
        parameter.data += 0.1
    layer, x = model.eval()[0], inputs().to(dtype)
    expected, weight = model(x), layer.base_layer.weight.clone()
    layer.merge(safe_merge=True)
    tolerance = TOLERANCE[dtype]
    assert not torch.equal(layer.base_layer.weight, weight)
    rounded = 0.1 if dtype == torch.bfloat16 else 1e-5  # sums of 40 products of size one
    torch.testing.assert_close(model(x), expected, rtol=tolerance["rtol"], atol=rounded)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight, weight, **tolerance)


@pytest.mark.parametrize("method", OURS)
def test_scaling_and_disabling_work_as_diffusers_uses_them(method):
    model = moved(method).eval()
    layer, x = model[0], inputs()
    base, whole = layer.base_layer(x), model(x)
    layer.set_scale("default", 0.5)
    torch.testing.assert_close(model(x) - base, (whole - base) / 2, **FLOAT32_FACTORS)
    layer.unscale_layer()
    assert torch.equal(model(x), whole)
    layer.enable_adapters(False)
    assert torch.equal(model(x), base)


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [4.0, 8.0])
def test_pissa_and_olora_train_as_pefts_do(start, alpha):
    """PEFT changes the base weight and we do not; every step must come out the same."""
    ours = block()
    attach(ours, ["0"], spec_of(start, alpha=alpha))
    config = LoraConfig(
        r=4, lora_alpha=alpha, init_lora_weights=start, target_modules=["0"], lora_dropout=0.0
    )
    theirs = get_peft_model(block(), config)
    outputs = []
    for model in (ours, theirs):
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(weights, lr=0.02)
        for _ in range(5):
            (model(inputs()) - 1).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        outputs.append(model(inputs(4)))
    assert (outputs[0] - block()(inputs(4))).abs().max() > 0.05
    torch.testing.assert_close(outputs[0], outputs[1], **FLOAT32_PRODUCTS)


def test_lora_xs_starts_close_to_zero_with_the_papers_deviation():
    model = nn.Sequential(nn.Linear(96, 96))
    attach(model, ["0"], spec_of("lora-xs", 64))
    (inner,) = adapter_parameters(model).values()
    assert inner.shape == (64, 64)
    assert inner.detach().std().item() == pytest.approx(1e-5, rel=0.05)


def test_dylora_serves_every_rank_as_a_lora_of_that_rank():
    model = moved("dylora").eval()
    layer, x = model[0], inputs()
    up, down = layer.dylora_up["default"], layer.dylora_down["default"]
    for rank in range(1, 5):
        set_inference_rank(model, rank)
        # alpha / b, with alpha = 4.
        delta = reference.lora_delta(up[:, :rank], down[:rank], 4 / rank)
        expected = reference.linear(x, layer.base_layer.weight, layer.base_layer.bias, delta)
        torch.testing.assert_close(model(x).double(), expected, **TOLERANCE[torch.float32])
    with pytest.raises(StudioError, match="rank of a DyLoRA must be 1 to its own, 4; got 5"):
        set_inference_rank(model, 5)
    with pytest.raises(StudioError, match="carries no DyLoRA"):
        set_inference_rank(block(), 1)


def test_dylora_trains_only_the_sampled_directions():
    model = moved("dylora", layers=2).train()
    generator = torch.Generator().manual_seed(0)
    drawn = set()
    for _ in range(40):
        rank = sample_rank(model, generator)
        drawn.add(rank)
        assert model[0].sampled_rank == model[1].sampled_rank == {"default": rank}
        model.zero_grad()
        model[0](inputs()).square().mean().backward()
        gradient = model[0].dylora_up["default"].grad
        assert gradient[:, :rank].all() and not gradient[:, rank:].any()
    assert drawn == {1, 2, 3, 4}
    assert sample_rank(block(), generator) is None


def test_dylora_uses_its_full_rank_in_evaluation_after_any_sampled_rank():
    model = moved("dylora").eval()
    whole = model(inputs())
    assert sample_rank(model, torch.Generator().manual_seed(4)) in (1, 2, 3), "not a lower rank"
    assert torch.equal(model(inputs()), whole)
    assert not torch.equal(model.train()(inputs()), whole)


def test_tied_layers_of_a_kind_share_their_factors_and_nothing_else():
    model = make(FAMILIES["unet"])
    attach(model, FAMILIES["unet"].targets, spec_of("tied-lora"))
    layers = [layer for layer in model.modules() if isinstance(layer, TiedLoraLinear)]
    kinds = {layer.kind for layer in layers}
    assert "attn1.to_q 64x64" in kinds and "attn2.to_out 64x64" in kinds
    assert len(layers) > 2 * len(kinds)
    for layer in layers:
        for other in layers:
            shared = layer.tied_lora_up["default"] is other.tied_lora_up["default"]
            assert shared == (layer.kind == other.kind)
    numbers = sum(4 * (out + into) for out, into in (shape_of(kind) for kind in kinds))
    numbers += sum(layer.out_features + 4 for layer in layers)
    assert count_parameters(model) == numbers
    before = {name: p.clone() for name, p in adapter_parameters(model).items()}
    train(FAMILIES["unet"], model)
    still = [n for n, p in adapter_parameters(model).items() if torch.equal(p, before[n])]
    assert not still


def shape_of(kind: str) -> tuple[int, int]:
    out, _, into = kind.rpartition(" ")[2].partition("x")
    return int(out), int(into)


@pytest.mark.parametrize("method", ["lora-xs", "pissa", "olora"])
def test_a_weight_of_zeros_is_refused_by_methods_that_start_from_it(method):
    model = block()
    model[0].weight.data.zero_()
    with pytest.raises(StudioError, match=r"0: the 24x40 weight is all zeros.* targets"):
        attach(model, ["0"], spec_of(method))
    assert isinstance(model[0], nn.Linear)


@pytest.mark.parametrize("method", OURS)
def test_an_attention_that_never_calls_its_output_layer_is_refused(method):
    model = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(StudioError, match=r"0\.out_proj belongs to an nn\.MultiheadAttention"):
        attach(model, ["out_proj"], spec_of(method))
