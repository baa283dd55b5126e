"""The DINO score is the mean cosine of class tokens with the real photos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny import tiny_clip
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTImageProcessor, ViTModel

from nora_studio.errors import StudioError
from nora_studio.scoring.dino import dino_score, load_dino
from nora_studio.scoring.scores import load_scorer, score_images

SIDE, PATCH, WIDTH, HEADS = 32, 8, 16, 2


def tiny_dino(folder):
    """A random vision transformer of one layer, as transformers saves it; DINO has no pooler."""
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=PATCH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = ViTModel(config, add_pooling_layer=False)
        for name, parameter in model.named_parameters():  # So that pictures differ in their token.
            parameter.data.normal_(0, 0.05 if "bias" in name or "cls_token" in name else 0.5)
    model.save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample=0)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dino(tmp_path_factory.mktemp("dino") / "dino")


def noise_pictures(count: int, seed: int, size=(SIDE, SIDE)) -> list[Image.Image]:
    """A colour for each patch, so that pictures differ in what a transformer sees."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    nearest = Image.Resampling.NEAREST
    return [Image.fromarray(level).resize(size, nearest) for level in levels]


def class_tokens(folder, images) -> np.ndarray:
    """The same transformer from its weights, written out in float64: (images, width)."""
    stored = load_file(folder / "model.safetensors")
    weights = {name: tensor.double().numpy() for name, tensor in stored.items()}

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    patch, layer = "embeddings.patch_embeddings.projection", "encoder.layer.0"
    rows = []
    for image in images:
        pixels = (np.asarray(image.convert("RGB"), np.float64) / 255 - 0.5) / 0.5
        patches = pixels.reshape(SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
        patches = patches.transpose(0, 2, 4, 1, 3).reshape(-1, 3 * PATCH * PATCH)
        kernel = weights[f"{patch}.weight"].reshape(WIDTH, -1)
        tokens = patches @ kernel.T + weights[f"{patch}.bias"]
        tokens = np.vstack([weights["embeddings.cls_token"][0], tokens])
        tokens = tokens + weights["embeddings.position_embeddings"][0]
        x = normed(tokens, f"{layer}.layernorm_before")
        query, key, value = (
            linear(x, f"{layer}.attention.attention.{name}")
            .reshape(len(x), HEADS, -1)
            .transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        looks = np.exp(query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH / HEADS))
        mixed = (looks / looks.sum(-1, keepdims=True)) @ value
        mixed = mixed.transpose(1, 0, 2).reshape(len(x), -1)
        tokens = tokens + linear(mixed, f"{layer}.attention.output.dense")
        x = linear(normed(tokens, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense")
        x = 0.5 * x * (1 + torch.erf(torch.from_numpy(x) / 2**0.5).numpy())  # GELU
        rows.append(normed(tokens + linear(x, f"{layer}.output.dense"), "layernorm")[0])
    return np.array(rows)


def test_dino_is_the_mean_cosine_of_class_tokens_with_all_real_photos(folder):
    images, photos = noise_pictures(3, seed=0), noise_pictures(4, seed=1)
    seen, real = (class_tokens(folder, some) for some in (images, photos))
    seen, real = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (seen, real))
    expected = (seen @ real.T).mean(axis=1)
    found = dino_score(load_dino(str(folder)), images, photos)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 3


def test_dino_scores_do_not_depend_on_the_batch_and_an_image_equals_itself(folder):
    dino, photos = load_dino(str(folder)), noise_pictures(1, seed=2)
    images = noise_pictures(35, seed=3)  # more than one encoding batch
    together = dino_score(dino, images, photos)
    assert together[34] == pytest.approx(dino_score(dino, images[34:], photos).item(), abs=1e-5)
    assert dino_score(dino, photos, photos).item() == pytest.approx(1.0, abs=1e-6)


def test_a_wide_photo_is_encoded_by_its_centre_square(folder):
    dino = load_dino(str(folder))
    wide = noise_pictures(1, seed=4)[0].resize((SIDE * 2, SIDE), Image.Resampling.NEAREST)
    middle = wide.crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE))
    squeezed = wide.resize((SIDE, SIDE), Image.Resampling.NEAREST)
    told = dino.features([wide, middle, squeezed])
    assert torch.allclose(told[0], told[1], atol=1e-6)
    assert not torch.allclose(told[0], told[2], atol=1e-3)


def test_dino_is_among_the_scores_only_if_requested(folder, tmp_path):
    scorer, dino = load_scorer(str(tiny_clip(tmp_path / "clip"))), load_dino(str(folder))
    images, photos, prompts = noise_pictures(2, 5), noise_pictures(2, 6), ["a mug", "a [V] mug"]
    assert list(dict(score_images(scorer, images, prompts, photos))) == ["CLIP-T", "CLIP-I"]
    scores = dict(score_images(scorer, images, prompts, photos, dino))
    assert list(scores) == ["CLIP-T", "CLIP-I", "DINO"]
    assert torch.equal(scores["DINO"], dino_score(dino, images, photos))
    assert "DINO" not in dict(score_images(scorer, images, prompts, None, dino))
    with pytest.raises(StudioError, match="real photo"):
        dino_score(dino, images, [])


def test_an_incomplete_or_pickled_dino_is_refused_in_one_line(folder, tmp_path):
    pickled, partial, other = (tmp_path / name for name in ("pickled", "partial", "other"))
    for copy in (pickled, partial):
        copy.mkdir()
        for file in folder.glob("*.json"):
            (copy / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    weights.pop(next(key for key in weights if key.endswith("cls_token")))
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(other)
    bad = {
        str(pickled): "only as pickled/pytorch_model.bin, a pickle",
        str(partial): "cls_token",
        str(other): "resnet",
    }
    bad |= {str(tmp_path): "could not be loaded", "nobody/nothing": "could not be loaded"}
    for name, words in bad.items():
        with pytest.raises(StudioError, match="--dino") as refused:
            load_dino(name)
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_dino_without_a_pooler_is_loaded(folder):
    assert "pooler.dense.weight" not in load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "vit"
    load_dino(str(folder))
