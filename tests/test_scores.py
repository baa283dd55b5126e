"""Scores are the cosines they claim to be, and verdicts claim no more than the numbers show."""

import math
import random
import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_clip

from nora_studio.errors import StudioError
from nora_studio.scores import (
    Difference,
    clip_i,
    clip_t,
    load_scorer,
    paired_difference,
    score_pictures,
    verdict,
)

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
    expected = [float(a @ b) for a, b in zip(seen, read)]
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


def test_many_pictures_score_as_each_alone(scorer):
    images = noise_pictures(35, seed=3)  # more than one encoding batch
    together = clip_t(scorer, images, ["a mug"] * 35)
    assert together[34] == pytest.approx(clip_t(scorer, images[34:], ["a mug"]).item(), abs=1e-5)


def test_scores_come_by_name_and_clip_i_only_with_photos(scorer):
    images = noise_pictures(2, seed=4)
    alone = dict(score_pictures(scorer, images, PROMPTS[:2]))
    both = dict(score_pictures(scorer, images, PROMPTS[:2], noise_pictures(1, seed=5)))
    assert list(alone) == ["CLIP-T"]
    assert list(both) == ["CLIP-T", "CLIP-I"]
    assert both["CLIP-I"].shape == (2,)


def test_unequal_or_missing_inputs_are_refused(scorer):
    images = noise_pictures(2, seed=4)
    with pytest.raises(StudioError, match="a prompt for each"):
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
def test_a_judge_that_is_not_there_is_refused_in_one_line(name):
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


def test_the_mean_difference_is_exact_and_lies_in_its_interval():
    a, b = [0.5, 0.25, 0.75, 1.0], [0.25, 0.25, 0.25, 0.25]
    found = paired_difference(a, b)
    assert found.mean == 0.375
    assert 0.0 <= found.low < found.mean < found.high <= 0.75


def test_the_interval_is_the_same_every_time_and_mirrors_when_sides_swap():
    generator = random.Random(0)
    a = [generator.gauss(0.1, 1) for _ in range(12)]
    b = [generator.gauss(0.0, 1) for _ in range(12)]
    first, again, swapped = (
        paired_difference(a, b),
        paired_difference(a, b),
        paired_difference(b, a),
    )
    assert first == again
    assert swapped == pytest.approx((-first.mean, -first.high, -first.low))
    assert paired_difference(a, b, seed=1) != first


@pytest.mark.parametrize("units", [6, 12, 40])
def test_intervals_cover_the_truth_95_times_in_a_hundred(units):
    """Normal differences around 0.3; of 400 intervals 95% must hold it, give or take 3 sigma."""
    generator = random.Random(units)
    trials, held = 400, 0
    for _ in range(trials):
        delta = [generator.gauss(0.3, 1.0) for _ in range(units)]
        found = paired_difference(delta, [0.0] * units, resamples=1000)
        held += found.low <= 0.3 <= found.high
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert held / trials == pytest.approx(0.95, abs=slack)


def test_repeating_every_pair_within_its_group_tells_nothing_new():
    delta = [0.1, -0.2, 0.4, 0.3, 0.05, 0.2]
    zeros = [0.0] * 6
    once = paired_difference(delta, zeros, ["a", "b", "c", "d", "e", "f"])
    groups = [group for group in "abcdef" for _ in range(5)]
    repeated = paired_difference([v for v in delta for _ in range(5)], [0.0] * 30, groups)
    assert repeated == pytest.approx(once)
    naive = paired_difference([v for v in delta for _ in range(5)], [0.0] * 30)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_groups_of_different_size_weigh_by_their_pairs():
    found = paired_difference([1.0, 1.0, 1.0, 0.0], [0.0] * 4, ["x", "x", "x", "y"])
    assert found.mean == 0.75


@pytest.mark.parametrize(
    ("a", "b", "groups", "word"),
    [
        ([1.0], [1.0, 2.0], None, "as many scores"),
        ([1.0, 2.0], [1.0, 2.0], ["x"], "1 groups"),
        ([1.0], [2.0], None, "at least two"),
        ([1.0, 2.0], [1.0, 2.0], ["x", "x"], "at least two"),
        ([1.0, math.nan], [1.0, 2.0], None, "NaN"),
    ],
)
def test_differences_without_meaning_are_refused(a, b, groups, word):
    with pytest.raises(StudioError, match=word):
        paired_difference(a, b, groups)


def test_a_verdict_names_the_higher_side_only_when_the_interval_leaves_zero_out():
    assert verdict(Difference(0.1, 0.05, 0.15), 10, "NoRA", "LoRA") == "NoRA higher than LoRA"
    assert verdict(Difference(-0.1, -0.2, -0.05), 10, "NoRA", "LoRA") == "LoRA higher than NoRA"
    assert verdict(Difference(0.1, -0.01, 0.2), 10, "NoRA", "LoRA") == "no difference shown"
    assert verdict(Difference(0.0, 0.0, 0.0), 10, "NoRA", "LoRA") == "no difference shown"


def test_few_prompts_give_no_verdict_however_clear_they_look():
    assert "too few prompts" in verdict(Difference(0.9, 0.8, 1.0), 5, "NoRA", "LoRA")
    assert "too few seeds" in verdict(Difference(0.9, 0.8, 1.0), 5, "NoRA", "LoRA", "seeds")
