"""Images: the same seed gives the same noise, whatever the adapter or the batch."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline
from PIL import Image
from support.tiny import RARE_TOKEN, SIZE, tiny_adapter, tiny_sdxl

from nora_studio.errors import StudioError
from nora_studio.photos.prompts import read_prompts, replace_token
from nora_studio.sdxl.generate import adapter_on, generate_images, save_image
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.sdxl.recipes import Recipe, read_recipe

PROMPTS = ["a photo of a [V] mug", "a [V] dog on the beach", "a pencil sketch"]
STEPS = 3
ROUNDING = 2
"""Levels of 255 by which two orders of the same float32 sums may move a pixel."""

RECIPE = Recipe(
    model="embedded",
    prompt='a "[V]" mug, größer\nand bluer',
    seed=3,
    steps=20,
    guidance=5.5,
    size=32,
    version="1.2.3",
    adapter="mug-nora",
    method="nora",
    strength=0.8,
    trigger="sks",
    negative="blurry",
    weights="0123",
)


@pytest.fixture(scope="module")
def pipe(tiny_base) -> StableDiffusionXLPipeline:
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module", params=["lora", "nora"])
def adapter(request, pipe, tmp_path_factory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("run") / "adapter", pipe, request.param)


def pixels(pipe, prompts=PROMPTS, seeds=(0, 1), steps=STEPS, guidance=5.0, **options):
    """Every picture's 8-bit levels as one array (pictures, height, width, 3)."""
    drawn = generate_images(
        pipe, prompts, seeds, steps=steps, guidance=guidance, size=SIZE, **options
    )
    return np.stack([np.asarray(picture, dtype=np.int64) for _, _, picture in drawn])


def test_one_image_is_generated_for_each_prompt_and_seed_in_order(pipe):
    drawn = generate_images(pipe, PROMPTS, [0, 7], steps=1, guidance=1.0, size=SIZE, batch=4)
    assert [(prompt, seed) for prompt, seed, _ in drawn] == [
        (prompt, seed) for prompt in PROMPTS for seed in (0, 7)
    ]


def test_an_image_equals_the_pipelines_own_for_its_seed(pipe):
    own = pipe(
        "a photo of a sks mug",
        generator=torch.Generator().manual_seed(11),
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        height=SIZE,
        width=SIZE,
    ).images[0]
    ours = pixels(pipe, ["a photo of a [V] mug"], [11], trigger=RARE_TOKEN)[0]
    assert np.abs(ours - np.asarray(own, dtype=np.int64)).max() <= ROUNDING


def test_an_image_does_not_depend_on_its_batch(pipe):
    alone = pixels(pipe, batch=1)
    assert np.abs(alone - pixels(pipe, batch=4)).max() <= ROUNDING
    assert np.abs(alone[0] - alone[1]).max() > 10  # other seeds do differ


def test_samplers_that_add_noise_do_not_depend_on_the_batch_either(pipe):
    usual = pipe.scheduler
    pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(usual.config)
    try:
        assert np.abs(pixels(pipe, batch=1) - pixels(pipe, batch=4)).max() <= ROUNDING
    finally:
        pipe.scheduler = usual


def test_generating_again_gives_the_same_bytes(pipe):
    assert (pixels(pipe) == pixels(pipe)).all()


def test_done_pairs_are_left_out_and_the_others_do_not_change(pipe):
    everything = pixels(pipe, batch=1)
    rest = pixels(pipe, batch=1, done={(PROMPTS[0], 0), (PROMPTS[2], 1)})
    assert (rest == everything[[1, 2, 3, 4]]).all()


def test_progress_counts_every_image(pipe):
    seen = []
    pixels(pipe, on_image=lambda *now: seen.append(now), batch=4)
    assert seen == [(number, 6) for number in range(1, 7)]


def test_an_adapter_changes_the_image_and_leaves_no_trace(pipe, adapter):
    before = {part: module.state_dict() for part, module in parts_of(pipe).items()}
    before = {part: {k: v.clone() for k, v in state.items()} for part, state in before.items()}
    base = pixels(pipe)
    with adapter_on(pipe, adapter) as card:
        assert card is not None and card.trigger == RARE_TOKEN
        adapted = pixels(pipe)
    assert np.abs(adapted - base).max() > 10
    for part, module in parts_of(pipe).items():
        after = module.state_dict()
        assert after.keys() == before[part].keys()
        assert all(torch.equal(after[name], before[part][name]) for name in after)
    assert (pixels(pipe) == base).all()


def test_strength_zero_is_the_base_and_one_half_is_between(pipe, adapter):
    base = pixels(pipe)
    with adapter_on(pipe, adapter, strength=0.0):
        assert (pixels(pipe) == base).all()
    with adapter_on(pipe, adapter):
        full = np.abs(pixels(pipe) - base).mean()
    with adapter_on(pipe, adapter, strength=0.5):
        half = np.abs(pixels(pipe) - base).mean()
    assert 0 < half < full


def test_the_adapter_is_removed_when_the_block_fails(pipe, adapter):
    base = pixels(pipe)
    with pytest.raises(ZeroDivisionError), adapter_on(pipe, adapter):
        raise ZeroDivisionError
    assert (pixels(pipe) == base).all()


def test_an_adapter_of_another_base_is_refused_and_nothing_stays(adapter, tmp_path):
    other = load_sdxl(str(tiny_sdxl(tmp_path / "other", seed=1)))
    base = pixels(other)
    with pytest.raises(StudioError, match="another base"), adapter_on(other, adapter):
        pass
    assert (pixels(other) == base).all()


def test_a_negative_prompt_is_used_or_refused(pipe):
    assert np.abs(pixels(pipe, negative="a dog") - pixels(pipe)).max() > 0
    with pytest.raises(StudioError, match="expected a number above 1"):
        pixels(pipe, negative="a dog", guidance=1.0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"steps": 0}, "steps"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance": math.nan}, "guidance"),
        ({"size": 36}, "multiple of 8"),
        ({"batch": 0}, "batch"),
    ],
)
def test_values_out_of_range_are_refused_before_generating(pipe, options, word):
    values = {"steps": 1, "guidance": 1.0, "size": SIZE, **options}
    with pytest.raises(StudioError, match=word):
        generate_images(pipe, PROMPTS, [0], **values)


def test_an_image_of_nan_is_an_error_not_a_black_image(tmp_path):
    broken = load_sdxl(str(tiny_sdxl(tmp_path / "broken")))
    broken.vae.post_quant_conv.weight.data.fill_(math.nan)
    with pytest.raises(StudioError, match="NaN"):
        pixels(broken, PROMPTS[:1], [0], steps=1)


def test_a_saved_image_has_its_recipe_and_pixels(tmp_path):
    image = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    file = tmp_path / "deep" / "picture.png"
    save_image(image, file, RECIPE)
    assert read_recipe(file) == RECIPE
    with Image.open(file) as reopened:
        assert (np.asarray(reopened) == np.asarray(image)).all()
        text = reopened.info["parameters"].splitlines()
        assert json.loads(reopened.info["nora_studio"])["adapter"] == "mug-nora"
    assert text[0] == 'a "sks" mug, größer'
    assert "Negative prompt: blurry" in text
    assert text[-1].startswith("Steps: 20, CFG scale: 5.5, Seed: 3, Size: 32x32, Model: embedded")


def test_saving_is_atomic_and_leaves_no_other_file(tmp_path):
    file = tmp_path / "picture.png"
    for seed in (0, 1):
        save_image(Image.new("RGB", (8, 8)), file, replace(RECIPE, seed=seed))
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]
    assert read_recipe(file).seed == 1


def test_images_without_a_complete_recipe_are_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign.png")
    with pytest.raises(StudioError, match="no recipe"):
        read_recipe(tmp_path / "foreign.png")
    save_image(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)),
                 tmp_path / "cut.png", RECIPE)  # fmt: skip
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudioError, match=r"cut\.png cannot be read"):
        read_recipe(tmp_path / "cut.png")
    with pytest.raises(StudioError, match="PNG"):
        save_image(Image.new("RGB", (8, 8)), tmp_path / "picture.jpg", RECIPE)


@pytest.mark.parametrize(
    ("prompt", "trigger", "expected"),
    [
        ("a photo of a [V] mug", "zqp", "a photo of a zqp mug"),
        ("a [v] mug beside a [V] mug", r"\1", r"a \1 mug beside a \1 mug"),
        ("a photo of a [V] mug", None, "a photo of a mug"),
        ("a photo of [V] mug", "", "a photo of mug"),
        ("a [V]'s hat, by [V].", None, "a hat, by."),
        ("[V]", None, ""),
        ("a mug", "zqp", "a mug"),
    ],
)
def test_the_trigger_replaces_the_placeholder_or_removes_it(prompt, trigger, expected):
    assert replace_token(prompt, trigger) == expected


def test_prompts_are_given_directly_or_in_a_file(tmp_path):
    assert read_prompts([" one ", "two"]) == ["one", "two"]
    (tmp_path / "a.txt").write_text("\ufeffone\n\n# left out\n  two\n", encoding="utf-8")
    assert read_prompts([str(tmp_path / "a.txt")]) == ["one", "two"]
    (tmp_path / "a.json").write_text('{"scenes": [{"prompt": "one"}, {"prompt": "two"}]}')
    assert read_prompts([str(tmp_path / "a.json")]) == ["one", "two"]


@pytest.mark.parametrize("entries", [[], ["  "], ["one", "one"], ["nowhere.txt"], ["nowhere.json"]])
def test_invalid_prompts_are_refused(entries):
    with pytest.raises(StudioError, match="--prompts"):
        read_prompts(entries)


def test_a_json_file_of_another_form_is_refused(tmp_path):
    for number, text in enumerate(['{"a": 1}', "[1, 2]", "{", '{"scenes": 3}', '"word"']):
        file = tmp_path / f"{number}.json"
        file.write_text(text)
        with pytest.raises(StudioError, match="cannot be read"):
            read_prompts([str(file)])
