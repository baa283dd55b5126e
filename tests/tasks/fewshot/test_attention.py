"""open_clip's attention unpacked: the same bits, and every adapter finds q, k, v, o."""

import copy
import warnings
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from support.any_module import AnyModule
from support.tiny import tiny_clip
from support.tolerances import FLOAT32_FACTORS

from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.scoring.scores import load_scorer
from nora_studio.tasks.fewshot.attention import (
    PROJECTIONS,
    TARGETS,
    UnpackedAttention,
    pack,
    unpack,
)
from nora_studio.tasks.fewshot.clip import load_clip, parts_of
from nora_studio.tasks.fewshot.merging import merged

ARCHITECTURES = {
    "plain": (open_clip.CLIP, {}, {}, {}),
    "quick GELU": (open_clip.CLIP, {}, {}, {"quick_gelu": True}),
    "three heads": (open_clip.CLIP, {"head_width": 16, "width": 48}, {"heads": 4}, {}),
    "layer scale": (open_clip.CLIP, {"ls_init_value": 0.5}, {"ls_init_value": 0.5}, {}),
    "a text tower of its own": (open_clip.CustomTextCLIP, {}, {}, {}),
    "class token in the text": (
        open_clip.CustomTextCLIP, {}, {"embed_cls": True, "pad_id": 0, "no_causal_mask": True}, {}
    ),
    "averaged tokens": (open_clip.CLIP, {"pool_type": "avg", "final_ln_after_pool": True}, {}, {}),
}  # fmt: skip


def built(name: str) -> open_clip.CLIP:
    kind, vision, text, more = ARCHITECTURES[name]
    torch.manual_seed(0)
    vision = {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "patch_size": 8,
        "head_width": 8,
        **vision,
    }
    text = {"context_length": 12, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2, **text}
    model = kind(embed_dim=16, vision_cfg=vision, text_cfg=text, **more)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # Biases begin at zero otherwise.
    return model


def answers(model) -> list[torch.Tensor]:
    """Features of pictures and texts, and the gradients that reach pixels and words."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(3, 3, 32, 32, generator=generator).requires_grad_(True)
    text: AnyModule = model if isinstance(model, open_clip.CLIP) else model.text
    words = text.token_embedding.weight
    words.requires_grad_(True).grad = None
    ids = torch.randint(1, 50, (3, model.context_length), generator=generator)
    found = [model.encode_image(pixels), model.encode_text(ids)]
    torch.cat([one.flatten() for one in found]).square().sum().backward()
    assert pixels.grad is not None and words.grad is not None
    return [*found, pixels.grad, words.grad]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_unpacking_changes_no_bit_forward_or_backward(name, mode):
    model = built(name).train(mode == "train")
    before = answers(model.requires_grad_(False))
    assert unpack(model) == 4
    assert not any(isinstance(m, torch.nn.MultiheadAttention) for m in model.modules())
    assert same(before, answers(model))


def test_the_order_for_a_gpu_gives_the_same_answers():
    model = built("plain").train().requires_grad_(False)
    unpack(model)
    before = answers(model)
    for module in model.modules():
        if isinstance(module, UnpackedAttention):
            module.tokens_first = False
    for one, other in zip(before, answers(model), strict=True):
        assert torch.allclose(one, other, **FLOAT32_FACTORS)


def test_the_embedded_model_answers_the_same_bits():
    packed = load_scorer().model
    ids, pixels = torch.randint(1, 800, (2, 48)), torch.rand(2, 3, 128, 128)
    unpacked = load_clip("embedded", torch.float32, torch.device("cpu")).model
    packed.train()  # Torch's own path; its fused kernel for evaluation rounds in another way.
    with torch.no_grad():
        assert torch.equal(packed.encode_image(pixels), unpacked.encode_image(pixels))
        assert torch.equal(packed.encode_text(ids), unpacked.encode_text(ids))


def test_packing_brings_every_tensor_back():
    model = built("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unpack(model)
    assert model.state_dict().keys() != before.keys()
    pack(model)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_projection_that_differs_is_noticed():
    model = built("plain")
    block = next(m for m in model.modules() if isinstance(m, ResidualAttentionBlock))
    block.attn.register_forward_hook(lambda _, given, out: (out[0] * (1 + 1e-6), out[1]))
    with pytest.raises(StudioError, match="has other outputs when it is unpacked"):
        unpack(model)


@pytest.mark.parametrize("targets", [PROJECTIONS, TARGETS], ids=len)
def test_one_attach_reaches_every_block_of_both_encoders(targets):
    model = built("plain")
    unpack(model)
    for part in parts_of(model).values():
        assert len(attach(part, targets, AdapterSpec("nora", 2, outer_rank=4))) == 2 * len(targets)
    names = {name.rpartition(".")[2] for name in tuner_layers(model)}
    assert names == set(targets)
    loss = model.encode_image(torch.rand(2, 3, 32, 32)).square().sum()
    loss = loss + model.encode_text(torch.randint(1, 50, (2, 12))).square().sum()
    loss.backward()
    trained = adapter_parameters(model)
    assert len(trained) == 4 * len(targets) * 2
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())


def test_an_adapter_is_in_the_way_of_packing_until_it_is_merged():
    model = built("plain").eval()
    unpack(model)
    for part in parts_of(model).values():
        attach(part, TARGETS, AdapterSpec("lora", 2))
    for parameter in adapter_parameters(model).values():
        parameter.data.normal_(std=0.2)
    with pytest.raises(StudioError, match="Merge or detach"):
        pack(copy.deepcopy(model))
    pixels = torch.rand(2, 3, 32, 32)
    whole: AnyModule = merged(model)
    with torch.no_grad():
        adapted, plain = model.encode_image(pixels), whole.encode_image(pixels)
    assert whole.state_dict().keys() == built("plain").state_dict().keys()
    assert torch.allclose(adapted, plain, **FLOAT32_FACTORS)
    assert tuner_layers(model), "the adapted model stays as it was"


def test_towers_of_another_make_are_refused_by_name(tmp_path):
    torch.manual_seed(0)
    folder = tiny_clip(tmp_path / "clip")
    assert load_clip(str(folder), torch.float32, torch.device("cpu")).size == 32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vision: Any = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 16}
        text: Any = {
            "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1
        }  # fmt: skip
        resnet = open_clip.CLIP(16, vision, text)
    assert unpack(resnet) == 1  # The text tower alone.
    assert embedded("mini-clip").is_dir()
