"""diffusers' own adapter calls work with NoRA, on a UNet and a whole pipeline."""

import pytest
import torch
from support.any_module import AnyModule
from support.families import FAMILIES, make
from support.tolerances import FLOAT32_FACTORS, TOLERANCE, Tolerance
from torch import nn

from nora_studio.nora import NoraConfig, NoraLinear

UNET = FAMILIES["unet"]
TARGETS = list(UNET.targets)


def config(rank: int = 4, outer_rank: int = 16, **settings) -> NoraConfig:
    settings.setdefault("target_modules", TARGETS)
    return NoraConfig(r=rank, outer_rank=outer_rank, **settings)


def move(model: nn.Module, adapter_name: str, seed: int = 7) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "nora_inner" in name and name.endswith(f".{adapter_name}"):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += (0.2 * noise).to(parameter)


def unet_with(*names: str, dtype: torch.dtype = torch.float32, **settings) -> AnyModule:
    unet = make(UNET, dtype=dtype)
    for seed, name in enumerate(names):
        unet.add_adapter(config(**settings), adapter_name=name)
        move(unet, name, seed)
    return unet


def run(unet: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return UNET.run(unet)


def layers_of(model: nn.Module) -> dict[str, NoraLinear]:
    found = {name: m for name, m in model.named_modules() if isinstance(m, NoraLinear)}
    assert found, "no layer is adapted"
    return found


def dense_unet(unet: nn.Module, factors: dict[str, float], scale_of=lambda name: 1.0) -> nn.Module:
    """A bare UNet with the adapters' updates added to its weights by hand."""
    bare = make(UNET)
    for name, layer in layers_of(unet).items():
        weight = bare.get_submodule(name).weight
        for adapter, factor in factors.items():
            delta = layer.get_delta_weight(adapter) / layer.scaling[adapter]
            own = layer.nora_alpha[adapter] / layer.r[adapter]
            weight.data += factor * scale_of(name) * own * delta
    return bare


CLOSE: Tolerance = {"rtol": 1e-4, "atol": 1e-4}


def test_weights_of_several_adapters_scale_each_of_them():
    unet = unet_with("mug", "style", alpha=6.0)
    unet.set_adapters(["mug", "style"], weights=[0.5, -0.25])
    assert unet.active_adapters() == ["mug", "style"]
    expected = run(dense_unet(unet, {"mug": 0.5, "style": -0.25}))
    torch.testing.assert_close(run(unet), expected, **CLOSE)


def test_weights_by_block_reach_only_their_blocks():
    unet = unet_with("mug", alpha=6.0)
    blocks = {"down": 0.25, "mid": 0.0, "up": {"block_0": [0.5, 2.0]}}
    unet.set_adapters("mug", weights=blocks)

    def scale_of(name: str) -> float:
        if name.startswith("mid"):
            return 0.0
        if name.startswith("down"):
            return 0.25
        return {"0": 0.5, "1": 2.0}[name.split(".")[3]]

    for name, layer in layers_of(unet).items():
        assert layer.scaling["mug"] == pytest.approx(scale_of(name) * 1.5), name
    expected = run(dense_unet(unet_with("mug", alpha=6.0), {"mug": 1.0}, scale_of))
    torch.testing.assert_close(run(unet), expected, **CLOSE)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_the_scale_argument_scales_the_update_of_one_call(tiny_pipe, scale):
    unet = tiny_pipe.unet
    unet.add_adapter(config(), adapter_name="mug")
    move(unet, "mug")
    noise, text = torch.ones(1, 4, 4, 4), torch.ones(1, 3, 64)
    conditions = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}

    def call(**arguments) -> torch.Tensor:
        with torch.no_grad():
            return unet(noise, 5, text, added_cond_kwargs=conditions, **arguments).sample

    full = call()
    scaled = call(cross_attention_kwargs={"scale": scale})
    unet.set_adapters("mug", weights=scale)
    torch.testing.assert_close(scaled, call(), **TOLERANCE[torch.float32])
    unet.set_adapters("mug", weights=1.0)
    assert torch.equal(call(), full), "the scale must not outlive the call"
    assert (scale == 1.0) == torch.allclose(scaled, full, **FLOAT32_FACTORS)


@pytest.mark.parametrize("safe", [False, True])
def test_fusing_some_adapters_keeps_the_output_and_unfusing_restores(safe):
    unet = unet_with("mug", "style")
    unet.set_adapters(["mug", "style"], weights=[1.0, 0.5])
    both = run(unet)
    unet.fuse_lora(safe_fusing=safe)
    torch.testing.assert_close(run(unet), both, **CLOSE)
    unet.unfuse_lora()
    torch.testing.assert_close(run(unet), both, **CLOSE)
    unet.fuse_lora(lora_scale=0.5, adapter_names=["style"])
    fused = run(unet)
    unet.unfuse_lora()
    unet.set_adapters(["style"], weights=0.25)
    torch.testing.assert_close(fused, run(unet), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_checkpointing_gives_the_same_gradients(dtype):
    gradients = []
    for checkpointing in (False, True):
        unet = unet_with("mug", dtype=dtype).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        UNET.run(unet).float().square().mean().backward()
        found = {n: p.grad for n, p in unet.named_parameters() if p.grad is not None}
        assert found and all("nora_inner" in name for name in found)
        gradients.append(found)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


def test_every_update_trains_on_a_bfloat16_unet_under_autocast():
    unet = unet_with("mug", dtype=torch.bfloat16).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = UNET.run(unet).float().square().mean()
    loss.backward()
    for name, parameter in unet.named_parameters():
        assert (parameter.grad is not None) == ("nora_inner" in name), name
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32 and bool(parameter.grad.any())


def test_disabling_switching_and_deleting_one_of_two():
    unet = unet_with("mug", "style")
    base = run(make(UNET))
    unet.set_adapters("mug")
    mug = run(unet)
    unet.set_adapter("style")
    style = run(unet)
    assert not torch.equal(mug, style) and not torch.equal(mug, base)
    unet.disable_adapters()
    assert torch.equal(run(unet), base)
    unet.enable_adapters()
    assert torch.equal(run(unet), style)
    unet.delete_adapters("style")
    unet.set_adapters("mug")
    assert torch.equal(run(unet), mug)
    unet.delete_adapters("mug")
    assert torch.equal(run(unet), base)


def test_a_loaded_pipeline_draws_with_nora_on_all_three_parts(tiny_pipe):
    def draw() -> torch.Tensor:
        return tiny_pipe(
            "a photo of sks mug",
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            output_type="pt",
        ).images

    base = draw()
    text_targets = list(FAMILIES["clip"].targets)
    tiny_pipe.unet.add_adapter(config(), "mug")
    for encoder in (tiny_pipe.text_encoder, tiny_pipe.text_encoder_2):
        encoder.add_adapter(config(target_modules=text_targets), "mug")
    assert torch.equal(draw(), base), "untrained adapters are the base"
    for module in (tiny_pipe.unet, tiny_pipe.text_encoder, tiny_pipe.text_encoder_2):
        move(module, "mug")
    moved = draw()
    assert not torch.allclose(moved, base, atol=1e-3)
    assert set(tiny_pipe.get_list_adapters()) == {"unet", "text_encoder", "text_encoder_2"}
    tiny_pipe.set_adapters("mug", adapter_weights=0.0)
    torch.testing.assert_close(draw(), base, rtol=0, atol=1e-5)
    tiny_pipe.set_adapters("mug", adapter_weights=1.0)
    assert torch.equal(draw(), moved)
    tiny_pipe.disable_lora()
    assert torch.equal(draw(), base)
    tiny_pipe.enable_lora()
    tiny_pipe.fuse_lora(components=["unet", "text_encoder", "text_encoder_2"])
    torch.testing.assert_close(draw(), moved, rtol=0, atol=1e-3)
    tiny_pipe.unfuse_lora(components=["unet", "text_encoder", "text_encoder_2"])
    torch.testing.assert_close(draw(), moved, rtol=0, atol=1e-3)
    tiny_pipe.delete_adapters("mug")
    torch.testing.assert_close(draw(), base, rtol=0, atol=1e-3)


def test_diffusers_saves_all_tensors_of_the_adapter(tmp_path):
    from safetensors.torch import load_file

    unet = unet_with("mug")
    unet.save_lora_adapter(tmp_path, adapter_name="mug")
    (file,) = tmp_path.glob("*.safetensors")
    saved = load_file(file)
    for name, layer in layers_of(unet).items():
        for kind in ("nora_up", "nora_down", "nora_inner_up", "nora_inner_down_start"):
            assert torch.equal(saved[f"{name}.{kind}"], getattr(layer, kind)["mug"])
