"""NoRA on quantised layers: the base is unchanged, and its dense weight is decomposed."""

import copy
import warnings
from collections import OrderedDict

import pytest
import reference
import torch
from peft import PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from support.any_module import AnyModule
from support.families import FAMILIES, make, train
from support.tolerances import TOLERANCE
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear

OUTER, RANK, ALPHA = 16, 4, 6.0
WIDTH, HEIGHT = 64, 96
KINDS = ["bnb-4bit", "bnb-8bit", "torchao-int8"]


class Holder(nn.Module):
    """A model of one layer; quantisers replace layers inside of models."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.proj = nn.Linear(WIDTH, HEIGHT).requires_grad_(False).to(dtype)

    def forward(self, x):
        return self.proj(x)


def quantized(kind: str, model: nn.Module, names: tuple[str, ...] = ("proj",)) -> AnyModule:
    """Quantise a model's layers of those endings, in place, on the CPU."""
    if kind == "torchao-int8":
        torchao = pytest.importorskip("torchao.quantization")
        torchao.quantize_(
            model,
            torchao.Int8WeightOnlyConfig(),
            lambda module, name: isinstance(module, nn.Linear) and name.endswith(names),
        )
        return model
    bnb = pytest.importorskip("bitsandbytes")
    for name, layer in list(model.named_modules()):
        if not (isinstance(layer, nn.Linear) and name.endswith(names)):
            continue
        has_bias, dtype = layer.bias is not None, layer.weight.dtype
        if kind == "bnb-4bit":
            fresh = bnb.nn.Linear4bit(
                layer.in_features, layer.out_features, has_bias, dtype, quant_type="nf4"
            )
            fresh.weight = bnb.nn.Params4bit(
                layer.weight.data, requires_grad=False, quant_type="nf4", module=fresh
            )
        else:
            fresh = bnb.nn.Linear8bitLt(
                layer.in_features, layer.out_features, has_bias, has_fp16_weights=False
            )
            fresh.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False)
        fresh.bias = layer.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fresh.to("cpu"))
    return model.requires_grad_(False)


def dense(layer: nn.Module) -> torch.Tensor:
    """The weight, dequantised; of a copy, as PEFT's function moves an 8-bit layer's state."""
    return dequantize_module_weight(copy.deepcopy(layer)).detach().double()


def packed(layer: AnyModule) -> list[torch.Tensor]:
    """Copies of the bytes that a quantised layer is made of."""
    weight = layer.weight
    pieces = [weight.qdata, weight.scale] if hasattr(weight, "qdata") else [weight.data]
    return [piece.clone() for piece in pieces]


def assert_untouched(layer: nn.Module, before: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(packed(layer), before, strict=True))


def config(targets=("proj",), **settings) -> NoraConfig:
    return NoraConfig(
        r=RANK, outer_rank=OUTER, alpha=ALPHA, target_modules=list(targets), **settings
    )


def moved(model: nn.Module, size: float = 0.2) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        if "nora_inner" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * size


def dense_delta(layer: AnyModule) -> torch.Tensor:
    return reference.nora_delta(
        layer.nora_up["default"],
        layer.nora_inner_up["default"].detach(),
        layer.nora_inner_down["default"].detach(),
        layer.nora_down["default"],
        layer.nora_inner_up_start["default"],
        layer.nora_inner_down_start["default"],
        ALPHA / RANK,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_come_from_the_dequantised_weight_and_the_packed_one_is_unchanged(kind, dtype):
    base = quantized(kind, Holder(dtype))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(5, WIDTH, generator=generator).to(dtype)
    expected_base, before = base(x), packed(base.proj)
    weight = dense(base.proj)
    model: AnyModule = get_peft_model(base, config())
    layer = model.base_model.model.proj
    assert isinstance(model.base_model.model.proj, NoraLinear) and layer.base_layer is not None
    assert torch.equal(model(x), expected_base), "an untrained adapter is the base"
    up, root, down = reference.nora_factors(weight, OUTER, RANK)
    mine = layer.nora_up["default"].double() @ layer.nora_down["default"].double()
    tolerance = TOLERANCE[layer.nora_up["default"].dtype]
    torch.testing.assert_close(mine, up @ down, **tolerance)
    torch.testing.assert_close(
        layer.nora_inner_up["default"].diagonal().double(), root, **TOLERANCE[torch.float32]
    )
    moved(model)
    delta = dense_delta(layer)
    assert float(delta.norm()) > 0.3
    expected = expected_base.double() + x.double() @ delta.T
    torch.testing.assert_close(model(x).double(), expected, **TOLERANCE[dtype])
    model(x).float().square().mean().backward()
    assert float(layer.nora_inner_up["default"].grad.norm()) > 0.01
    assert_untouched(layer.base_layer, before)
    with model.disable_adapter():
        assert torch.equal(model(x), expected_base)


@pytest.mark.parametrize("kind", ["bnb-4bit", "bnb-8bit"])
@pytest.mark.parametrize("safe", [False, True])
def test_merging_quantises_again_and_unmerging_restores_the_weight(kind, safe):
    model: AnyModule = get_peft_model(quantized(kind, Holder()), config())
    layer, x = model.base_model.model.proj, torch.eye(WIDTH)
    before = dense(layer.base_layer)
    moved(model, 0.5)
    wanted = before + dense_delta(layer)
    model.merge_adapter(safe_merge=safe)
    after = dense(layer.base_layer)
    assert type(layer.base_layer.weight).__name__ in ("Params4bit", "Int8Params")
    grain = {"bnb-4bit": 0.1, "bnb-8bit": 0.01}[kind] * float(wanted.norm())
    assert float((wanted - before).norm()) > 4 * grain, "the update must be seen over the rounding"
    assert float((after - wanted).norm()) < grain
    assert model(x).isfinite().all()
    model.unmerge_adapter()
    assert float((dense(layer.base_layer) - before).norm()) < 2 * grain


def test_torchao_merges_where_the_model_says_how_it_was_quantised():
    torchao = pytest.importorskip("torchao.quantization")
    base = quantized("torchao-int8", Holder())

    class Quantizer:
        """What transformers leaves on a model that it loaded with a TorchAoConfig."""

        class quantization_config:
            get_apply_tensor_subclass = staticmethod(torchao.Int8WeightOnlyConfig)

    base.hf_quantizer = Quantizer
    model: AnyModule = get_peft_model(base, config())
    layer = model.base_model.model.proj
    before = layer.base_layer.weight.dequantize().double()
    moved(model)
    wanted = before + dense_delta(layer)
    model.merge_adapter()
    after = layer.base_layer.weight.dequantize().double()
    assert type(layer.base_layer.weight).__module__.startswith("torchao")
    assert float((after - wanted).abs().max()) < 0.01 * float(wanted.abs().max())


def test_torchao_refuses_to_merge_where_the_model_does_not_say_how():
    model: AnyModule = get_peft_model(quantized("torchao-int8", Holder()), config())
    layer = model.base_model.model.proj
    moved(model)
    before = packed(layer.base_layer)
    with pytest.raises(StudioError, match="proj was quantised by torchao, but the model does not"):
        model.merge_adapter()
    assert not layer.merged
    assert_untouched(layer.base_layer, before)
    assert model(torch.eye(WIDTH)).isfinite().all()


@pytest.mark.parametrize("kind", ["bnb-4bit", "bnb-8bit"])
def test_a_broken_adapter_is_not_merged_into_a_quantised_base(kind):
    model: AnyModule = get_peft_model(quantized(kind, Holder()), config())
    layer = model.base_model.model.proj
    layer.nora_inner_up["default"].data[0, 0] = float("nan")
    before = packed(layer.base_layer)
    with pytest.raises(StudioError, match="NaN or infinite, so it was not merged"):
        model.merge_adapter(safe_merge=True)
    assert_untouched(layer.base_layer, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low_cpu", [False, True])
def test_a_quantised_model_trains_saves_and_loads(kind, low_cpu, tmp_path):
    family = FAMILIES["llama"]
    names = ("q_proj", "v_proj", "up_proj", "down_proj")
    # bitsandbytes repacks a 4-bit weight for a CPU's inference, and counts otherwise in training.
    base = quantized(kind, make(family), names).train()
    fresh = copy.deepcopy(base)
    model = get_peft_model(base, config(names))
    losses = train(family, model)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        again = PeftModel.from_pretrained(fresh, tmp_path, low_cpu_mem_usage=low_cpu)
    with torch.no_grad():
        assert torch.equal(family.run(again.train()), family.run(model.train()))


def test_a_quantised_weight_that_cannot_be_dequantised_is_refused(monkeypatch):
    from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend

    import nora_studio.nora.base_layers as base_layers

    class PackedLinear(nn.Linear):
        """A layer of a quantiser's own."""

    closed = ForwardOnlyQuantizationBackend("gptq")
    monkeypatch.setattr(base_layers, "resolve_quantization_backend", lambda *a, **k: closed)
    with pytest.raises(
        StudioError, match="proj is quantised by gptq, whose weight cannot be dequantised"
    ):
        get_peft_model(nn.Sequential(OrderedDict(proj=PackedLinear(WIDTH, HEIGHT))), config())
