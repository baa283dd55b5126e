"""A base in 8 or 4 bits: less memory, the ordinary base's identity, and exact gradients."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft.utils.integrations import dequantize_module_weight
from support.any_module import AnyModule
from support.specs import NEAR_ZERO, spec_of
from support.tiny import tiny_sdxl
from support.tolerances import FLOAT32_PRODUCTS
from support.trainer import PROMPT, only_unet, run_trainer, tensors_of, tiny_arguments
from support.unet_inputs import inputs
from torch import nn

from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.quantised import check_base_bits
from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError
from nora_studio.nora import NoraLinear
from nora_studio.runs.disk_cache import weights_digest
from nora_studio.runs.runs import Run
from nora_studio.sdxl.generate import adapter_on, generate_images
from nora_studio.sdxl.models import load_sdxl, parts_of, share_weights, used_targets
from nora_studio.sdxl.quantization import quantize, shared_state, stored_bytes

CPU = torch.device("cpu")
BITS = (8, 4)
STEPS = 4
CHANGES = {"steps": STEPS, "checkpoint-every": 1, "keep-checkpoints": STEPS, "sample-every": 0}
ROUNDING = {8: 0.01, 4: 0.12}
"""Norm of a weight's rounding over its norm, of normally distributed weights."""


def ordinary_unet(base: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    return load_sdxl(str(base), dtype).unet


def quantised_unet(base: Path, bits: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    unet = ordinary_unet(base, dtype)
    assert quantize("unet", unet, bits, CPU) > 80
    return unet


def linear_layers(unet: nn.Module) -> dict[str, AnyModule]:
    return {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and "attentions." in name
    }


@pytest.fixture(scope="module", params=[pytest.param(8, marks=pytest.mark.slow), 4])
def twins_in_bits(request, tiny_base, photo_folder, tmp_path_factory):
    """Bits, the folder of twins that were trained on such a base, and what the trainer said."""
    runs = tmp_path_factory.mktemp("runs")
    changes = CHANGES | {"base-bits": request.param}
    arguments = tiny_arguments(tiny_base, photo_folder, runs, "nora,lora", changes)
    return request.param, runs, run_trainer(*arguments), arguments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_weights_take_the_chosen_number_of_bits(tiny_base, bits, dtype):
    plain, unet = ordinary_unet(tiny_base, dtype), quantised_unet(tiny_base, bits, dtype)
    before, after = linear_layers(plain), linear_layers(unet)
    assert before.keys() == after.keys()
    for name, layer in after.items():
        entries = before[name].weight.numel()
        assert layer.weight.dtype == (torch.int8 if bits == 8 else torch.uint8)
        assert layer.weight.untyped_storage().nbytes() == entries * bits // 8, name
        dense, meant = dequantize_module_weight(layer), before[name].weight
        error = (dense.float() - meant.float()).norm() / meant.float().norm()
        assert 0 < error < ROUNDING[bits], name
    saved = stored_bytes(plain) - stored_bytes(unet)
    all_entries = sum(layer.weight.numel() for layer in before.values())
    expected = all_entries * (dtype.itemsize - bits / 8)
    assert saved == pytest.approx(expected, rel=0.08)  # less the scales


@pytest.mark.parametrize("bits", BITS)
def test_gradients_equal_those_of_the_dense_weights(tiny_base, bits):
    layer = next(iter(linear_layers(quantised_unet(tiny_base, bits)).values()))
    dense = dequantize_module_weight(layer).double()
    x = torch.randn(3, 5, layer.in_features, dtype=torch.float64).float().requires_grad_()
    ahead = torch.randn(3, 5, layer.out_features)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = layer(x)
    (out * ahead).sum().backward()
    expected = x.detach().double() @ dense.T + (0.0 if layer.bias is None else layer.bias.double())
    assert x.grad is not None
    torch.testing.assert_close(out.double(), expected, **FLOAT32_PRODUCTS)
    torch.testing.assert_close(x.grad.double(), ahead.double() @ dense, **FLOAT32_PRODUCTS)
    assert not any(
        tensor.dtype.is_floating_point and tensor.numel() >= x.numel() for tensor in kept
    )


@pytest.mark.parametrize("bits", BITS)
def test_under_autocast_activations_keep_the_bases_dtype(tiny_base, bits):
    layer = next(iter(linear_layers(quantised_unet(tiny_base, bits, torch.bfloat16)).values()))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, layer.in_features)).dtype == torch.bfloat16


@pytest.mark.parametrize("bits", BITS)
def test_the_base_keeps_its_fingerprint_but_not_its_digest(tiny_base, bits, tmp_path):
    plain, unet = ordinary_unet(tiny_base), quantised_unet(tiny_base, bits)
    assert fingerprint(unet) == fingerprint(plain) == fingerprint(share_weights(unet))
    other = quantised_unet(tiny_sdxl(tmp_path / "other", seed=1), bits)
    assert fingerprint(other) != fingerprint(unet)
    # What is kept on disk of encoded prompts must not be taken for the ordinary base's.
    digests = {weights_digest(module) for module in (plain, unet, other)}
    assert len(digests) == 3
    assert weights_digest(unet) == weights_digest(quantised_unet(tiny_base, bits))


@pytest.mark.parametrize("bits", BITS)
def test_twins_share_every_quantised_byte(tiny_base, bits):
    unet = quantised_unet(tiny_base, bits)
    twin = share_weights(unet)
    alone = stored_bytes(unet)
    both = nn.ModuleList([unet, twin])
    assert stored_bytes(both) == alone
    assert all(a is b for a, b in zip(shared_state(unet), shared_state(twin), strict=True))
    with torch.no_grad():
        first, second = unet(**inputs())[0], twin(**inputs())[0]
    assert torch.equal(first, second)
    assert stored_bytes(both) == alone  # a forward pass makes nothing of its own either


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_starts_at_the_quantised_base_or_is_refused(tiny_base, method, bits):
    if bits not in METHODS[method].bits:
        refusal = (
            rf"--base-bits {bits}: expected a method .* base of {bits} bits .*; got {method}\."
        )
        with pytest.raises(StudioError, match=refusal):
            check_base_bits([method], bits)
        return
    check_base_bits([method], bits)
    unet = quantised_unet(tiny_base, bits)
    with torch.no_grad():
        expected = unet(**inputs())[0]
    attach(unet, used_targets("unet", unet), spec_of(method, 4, 8))
    out = unet.train()(**inputs())[0]
    if method not in NEAR_ZERO:
        torch.testing.assert_close(out.detach(), expected, rtol=1e-3, atol=1e-4)
    out.square().mean().backward()
    moved = [p.grad is not None and bool(p.grad.any()) for p in adapter_parameters(unet).values()]
    assert sum(moved) >= len(moved) // 4  # of most pairs one factor starts at zero


def test_twins_are_verified_on_a_quantised_base(twins_in_bits):
    bits, runs, outcome, _ = twins_in_bits
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert outcome.out.count("verified in a fresh pipeline") == 2
    assert f"base_bits = {bits}" in (runs / "mug-nora" / "config.toml").read_text()


def test_an_adapter_of_a_quantised_base_works_on_the_ordinary_one(twins_in_bits, tiny_base):
    bits, runs, _, _ = twins_in_bits
    pictures, updates = {}, {}
    for where in ("ordinary", "quantised"):
        pipe = load_sdxl(str(tiny_base))
        for part, module in parts_of(pipe).items():
            if where == "quantised":
                quantize(part, module, bits, CPU)
        for adapter in (None, runs / "mug-nora"):
            with adapter_on(pipe, adapter):
                updates[where] = [
                    layer.get_delta_weight("default")
                    for layer in pipe.unet.modules()
                    if isinstance(layer, NoraLinear)
                ]
                picture = next(
                    iter(generate_images(pipe, [PROMPT], [0], steps=2, guidance=2.0, size=32))
                )[2]
            pictures[where, adapter is not None] = torch.tensor(list(picture.tobytes())).float()
    apart = (pictures["ordinary", True] - pictures["quantised", True]).abs().mean().item()
    moved = (pictures["ordinary", True] - pictures["ordinary", False]).abs().mean().item()
    assert len(updates["ordinary"]) > 60
    assert all(map(torch.equal, updates["ordinary"], updates["quantised"]))
    print(f"{bits} bits: the pictures are {apart:.2f} of 255 apart, the adapter moves {moved:.2f}")
    assert apart < {8: 1.0, 4: 6.0}[bits]
    assert moved > 3 * apart or bits == 4


def test_an_adapter_of_another_quantised_base_is_refused(twins_in_bits, tmp_path):
    bits, runs, _, _ = twins_in_bits
    other = load_sdxl(str(tiny_sdxl(tmp_path / "other", seed=1)))
    for quantise in (False, True):
        if quantise:
            for part, module in parts_of(other).items():
                quantize(part, module, bits, CPU)
        with pytest.raises(StudioError, match="was trained on another base"):
            load_adapter(runs / "mug-nora", parts_of(other))


@pytest.mark.slow
def test_a_resumed_quantised_run_equals_an_uninterrupted_one(twins_in_bits):
    _, runs, _, arguments = twins_in_bits
    folders = [runs / "mug-nora", runs / "mug-lora"]
    before = [tensors_of(folder / "checkpoints" / f"step-{STEPS:06d}") for folder in folders]
    for folder in folders:
        for step in Run(folder).checkpoints():
            if step > 2:
                shutil.rmtree(folder / "checkpoints" / f"step-{step:06d}")
    outcome = run_trainer(*arguments, "--resume")
    assert outcome.status == 0, outcome.err
    assert f"Continuing after step 2 of {STEPS}" in outcome.out
    after = [tensors_of(folder / "checkpoints" / f"step-{STEPS:06d}") for folder in folders]
    assert after == before


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_bit(twins_in_bits, tiny_base, photo_folder, tmp_path):
    bits, runs, _, _ = twins_in_bits
    changes = CHANGES | {"base-bits": bits, "gradient-checkpointing": True}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 0, outcome.err
    assert tensors_of(tmp_path / "mug-lora" / "adapter") == tensors_of(
        runs / "mug-lora" / "adapter"
    )


@pytest.mark.slow
def test_in_bfloat16_outer_factors_follow_activations_of_a_quantised_base(
    tiny_base, photo_folder, tmp_path
):
    changes = only_unet({"base-bits": 4, "precision": "bf16", "outer": "activation", "steps": 3})
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "nora", changes))
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert "verified in a fresh pipeline" in outcome.out


def test_a_missing_library_is_reported_with_how_to_install_it(
    tiny_base, photo_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # As Python does where it is missing.
    changes = {"base-bits": 4}
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2
    assert "pip install 'nora-studio[quantized]'" in outcome.errors[0]
    assert not list(tmp_path.iterdir())
