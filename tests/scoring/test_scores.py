"""CLIP-T and CLIP-I are the cosines that their names say."""

import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny import tiny_clip

from nora_studio.errors import StudioError
from nora_studio.scoring.scores import clip_i, clip_t, load_scorer, score_images

PROMPTS = ["a [V] mug", "a dog on the beach", "a mug"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="module")
def scorer(folder):
    return load_scorer(str(folder))


def noise_pictures(count: int, seed: int, size: tuple[int, int] = (48, 40)) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    shape = (size[1], size[0], 3)
    return [Image.fromarray(generator.integers(0, 256, shape, np.uint8)) for _ in range(count)]


def reference_features(scorer, images, prompts):
    """The same model in float64, one input at a time."""
    model = scorer.model.double()
    try:
        with torch.no_grad():
            seen = [model.encode_image(scorer.preprocess(i)[None].double())[0] for i in images]
            read = [model.encode_text(scorer.tokenize([p]))[0] for p in prompts]
    finally:
        scorer.model.float()
    return [v / v.norm() for v in seen], [v / v.norm() for v in read]


def test_clip_t_is_the_cosine_with_the_prompt_without_its_rare_word(scorer):
    images = noise_pictures(3, seed=0)
    seen, read = reference_features(scorer, images, ["a mug", "a dog on the beach", "a mug"])
    expected = [float(a @ b) for a, b in zip(seen, read, strict=True)]
    assert clip_t(scorer, images, PROMPTS).tolist() == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 3


def test_clip_i_is_the_mean_over_all_real_photos(scorer):
    images, photos = noise_pictures(3, seed=1), noise_pictures(4, seed=2, size=(40, 64))
    seen, _ = reference_features(scorer, images, [])
    real, _ = reference_features(scorer, photos, [])
    expected = [statistics.mean(float(a @ b) for b in real) for a in seen]
    assert clip_i(scorer, images, photos).tolist() == pytest.approx(expected, abs=1e-5)
    same = clip_i(scorer, images[:1], images[:1]).item()
    assert same == pytest.approx(1.0, abs=1e-6)
    assert same > max(expected)


def test_clip_scores_do_not_depend_on_the_batch(scorer):
    images = noise_pictures(35, seed=3)  # more than one encoding batch
    together = clip_t(scorer, images, ["a mug"] * 35)
    assert together[34] == pytest.approx(clip_t(scorer, images[34:], ["a mug"]).item(), abs=1e-5)


def test_scores_have_names_and_clip_i_needs_photos(scorer):
    images = noise_pictures(2, seed=4)
    alone = dict(score_images(scorer, images, PROMPTS[:2]))
    both = dict(score_images(scorer, images, PROMPTS[:2], noise_pictures(1, seed=5)))
    assert list(alone) == ["CLIP-T"]
    assert list(both) == ["CLIP-T", "CLIP-I"]
    assert both["CLIP-I"].shape == (2,)


def test_unequal_or_missing_inputs_are_refused(scorer):
    images = noise_pictures(2, seed=4)
    with pytest.raises(StudioError, match="one prompt for each"):
        clip_t(scorer, images, PROMPTS)
    with pytest.raises(StudioError, match="real photo"):
        clip_i(scorer, images, [])


def test_half_precision_weights_load_into_a_float32_judge(folder, scorer, tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    for file in folder.glob("*.json"):
        (half / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, half / "open_clip_model.safetensors")
    loaded = load_scorer(f"local-dir:{half}")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    images = noise_pictures(2, seed=6)
    close = clip_t(loaded, images, PROMPTS[:2])
    assert close.tolist() == pytest.approx(clip_t(scorer, images, PROMPTS[:2]).tolist(), abs=5e-3)


@pytest.mark.parametrize("name", ["nowhere", "ViT-B-32:no-such-weights", "ViT-B-32"])
def test_a_judge_that_does_not_exist_is_refused_in_one_line(name):
    with pytest.raises(StudioError, match="--clip") as refused:
        load_scorer(name)
    assert "\n" not in str(refused.value)


def test_damaged_judges_are_refused(folder, tmp_path):
    with pytest.raises(StudioError, match="safetensors"):
        load_scorer(str(tmp_path))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"no weights")
    for text in ("{", (folder / "open_clip_config.json").read_text()):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(StudioError, match="could not be loaded"):
            load_scorer(str(tmp_path))
