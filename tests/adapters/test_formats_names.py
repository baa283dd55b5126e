"""Names of layers equal SDXL's own numbering, computed here from its description."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.tiny import tiny_text_config, tiny_tokenizer, tiny_unet
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nora_studio.adapters.files.names import LayerNames, sgm_name
from nora_studio.errors import StudioError

# Stable Diffusion XL's UNet: blocks of the original code that hold transformers -> their depth.
DEPTHS = {
    "input_blocks_4_1": 2,
    "input_blocks_5_1": 2,
    "input_blocks_7_1": 10,
    "input_blocks_8_1": 10,
    "middle_block_1": 10,
    "output_blocks_0_1": 10,
    "output_blocks_1_1": 10,
    "output_blocks_2_1": 10,
    "output_blocks_3_1": 2,
    "output_blocks_4_1": 2,
    "output_blocks_5_1": 2,
}
ATTENTION = [f"attn{i}_{k}" for i in (1, 2) for k in ("to_q", "to_k", "to_v", "to_out_0")]
FEEDFORWARD = ["ff_net_0_proj", "ff_net_2"]


def sdxl_unet() -> nn.Module:
    """The full UNet, shapes only."""
    of_levels: dict[str, Any] = {  # Typed as if there were one level.
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
    }
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=2048,
            **of_levels,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return sdxl_unet()


def transformer_layers(unet: nn.Module) -> list[str]:
    inside = [n for n, m in unet.named_modules() if isinstance(m, nn.Linear) and "attentions" in n]
    return inside


def test_kohyas_names_of_sdxl_equal_the_original_codes(unet):
    expected = {
        f"lora_unet_{block}_transformer_blocks_{layer}_{name}"
        for block, depth in DEPTHS.items()
        for layer in range(depth)
        for name in ATTENTION + FEEDFORWARD
    } | {f"lora_unet_{block}_{name}" for block in DEPTHS for name in ("proj_in", "proj_out")}
    names = LayerNames({"unet": unet})
    found = [names.kohya("unet", name) for name in transformer_layers(unet)]
    assert len(found) == len(set(found)) == 70 * 10 + 22
    assert set(found) == expected


def test_each_name_keeps_its_layers_shape(unet):
    # Two blocks exchanged would go unseen in a set of names; widths tell them apart.
    names = LayerNames({"unet": unet})
    for name in transformer_layers(unet):
        key = names.kohya("unet", name)
        wide = 640 if any(f"_{b}" in key for b in ("blocks_4_1", "blocks_5_1")) else 1280
        if "output_blocks_3_1" in key:
            wide = 640
        layer = unet.get_submodule(name)
        assert layer.out_features in (wide, 8 * wide), (name, key)


@pytest.mark.parametrize(
    ("diffusers", "original"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.2.resnets.0.time_emb_proj", "input_blocks.7.0.emb_layers.1"),
        ("down_blocks.2.resnets.0.conv_shortcut", "input_blocks.7.0.skip_connection"),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.2.resnets.2.conv1", "output_blocks.8.0.in_layers.2"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("conv_out", "out.2"),
    ],
)
def test_layers_outside_attention_have_their_original_names_too(diffusers, original):
    assert sgm_name(diffusers, 2, (0, 1)) == original


def test_text_encoders_have_kohyas_numbers_and_older_transformers_names():
    config = tiny_text_config(tiny_tokenizer())
    parts = {
        "text_encoder": CLIPTextModel(config),
        "text_encoder_2": CLIPTextModelWithProjection(config),
    }
    names = LayerNames(parts)
    for number, part in (("te1", "text_encoder"), ("te2", "text_encoder_2")):
        found = {
            names.kohya(part, name)
            for name, module in parts[part].named_modules()
            if isinstance(module, nn.Linear) and "layers" in name
        }
        assert found == {
            f"lora_{number}_text_model_encoder_layers_{layer}_{kind}"
            for layer in (0, 1)
            for kind in (
                *(f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")),
                "mlp_fc1",
                "mlp_fc2",
            )
        }


def test_every_spelling_is_mapped_to_its_layer(unet):
    names = LayerNames({"unet": unet})
    places = names.layers_by_key()
    for name in transformer_layers(unet):
        assert places[names.kohya("unet", name)] == ("unet", name)
        assert places[names.diffusers("unet", name)] == ("unet", name)
        assert places[f"lora_unet_{name.replace('.', '_')}"] == ("unet", name)


def test_an_adapted_model_has_the_same_names_as_its_base():
    from nora_studio.adapters.methods.attachment import attach
    from nora_studio.adapters.methods.spec import AdapterSpec

    bare, adapted = tiny_unet(), tiny_unet()
    attach(adapted, ["to_q", "to_out.0"], AdapterSpec("nora", 2, outer_rank=4))
    assert (
        LayerNames({"unet": bare}).layers_by_key() == LayerNames({"unet": adapted}).layers_by_key()
    )


def test_a_layer_that_kohya_has_no_name_for_is_refused():
    with pytest.raises(StudioError, match=r"something\.else has no name in Kohya"):
        sgm_name("something.else", 2)
