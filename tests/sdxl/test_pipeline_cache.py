"""Several adapters on one base: each as alone, and all at once as the sum of their changes."""

import json

import numpy as np
import pytest
from support.tiny import SIZE, tiny_adapter

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.cli import merge
from nora_studio.errors import StudioError
from nora_studio.scoring.compare import adapter_columns, generate_missing
from nora_studio.sdxl.columns import ComparisonColumn, GenerationSettings, UsedAdapter
from nora_studio.sdxl.generate import adapter_on, generate_images
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.sdxl.pipeline_cache import PipelineCache
from nora_studio.sdxl.recipes import read_recipe

PROMPTS = ["a photo of a [V] mug", "a [V] mug on the beach"]
ROUNDING = 2
"""Levels of 255 by which two orders of the same float32 sums may move a pixel."""


@pytest.fixture(scope="module")
def pipe(tiny_base):
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="module")
def used(pipe, tmp_path_factory) -> dict[str, UsedAdapter]:
    top = tmp_path_factory.mktemp("runs")
    folders = {m: tiny_adapter(top / m / "adapter", pipe, m) for m in ("lora", "nora", "dora")}
    return {method: UsedAdapter(open_adapter(folder)) for method, folder in folders.items()}


def pixels(pipe) -> np.ndarray:
    drawn = generate_images(pipe, PROMPTS, [0], steps=2, guidance=3.0, size=SIZE, trigger="sks")
    return np.stack([np.asarray(picture, dtype=np.int64) for _, _, picture in drawn])


def at(use: UsedAdapter, strength: float) -> UsedAdapter:
    return UsedAdapter(use.adapter, strength)


def test_each_adapter_generates_as_alone_whatever_was_on_before(pipe, used):
    before, pipes = pixels(pipe), PipelineCache(pipe)
    for strength in (1.0, 0.5, 1.0):
        for use in used.values():
            drawn = pixels(pipes.with_adapters((at(use, strength),)))
            with adapter_on(pipe, use.path, strength):
                assert (drawn == pixels(pipe)).all()
    assert (pixels(pipes.with_adapters(())) == before).all()
    assert all(not hasattr(module, "peft_config") for module in parts_of(pipe).values())


@pytest.mark.slow
def test_only_recent_adapters_stay_loaded_and_a_retrained_one_is_read_again(pipe, used, tmp_path):
    pipes = PipelineCache(pipe, keep=2)
    lora, nora, dora = ((used[m],) for m in ("lora", "nora", "dora"))
    first = pipes.with_adapters(lora)
    assert pipes.with_adapters(lora) is first
    pipes.with_adapters(nora)
    pipes.with_adapters(dora)
    assert pipes.with_adapters(nora) is not first
    assert pipes.with_adapters(lora) is not first
    folder = tiny_adapter(tmp_path / "adapter", pipe, "nora")
    use = UsedAdapter(open_adapter(folder))
    drawn = pixels(pipes.with_adapters((use,)))
    tiny_adapter(tmp_path / "adapter", pipe, "nora", strength=0.6)
    assert (pixels(pipes.with_adapters((use,))) != drawn).any()


@pytest.mark.slow
def test_several_adapters_generate_what_the_merged_model_does(tiny_base, pipe, used, tmp_path):
    weights = (0.7, 0.4, 1.0)
    together = tuple(at(use, weight) for use, weight in zip(used.values(), weights, strict=True))
    drawn = pixels(PipelineCache(pipe).with_adapters(together))
    paths = tuple(use.path for use in used.values())
    merge.run(merge.Options(paths, tmp_path / "merged", weights, str(tiny_base), "fp32"))
    merged = pixels(load_sdxl(str(tmp_path / "merged")))
    assert np.abs(drawn - merged).max() <= ROUNDING
    assert np.abs(drawn - pixels(pipe)).max() > 10
    assert np.abs(drawn - pixels(PipelineCache(pipe).with_adapters(together[:2]))).max() > ROUNDING


@pytest.mark.slow
def test_one_adapter_twice_at_parts_of_its_strength_is_the_whole(pipe, used):
    halves = pixels(
        PipelineCache(pipe).with_adapters((at(used["nora"], 0.25), at(used["nora"], 0.75)))
    )
    whole = pixels(PipelineCache(pipe).with_adapters((used["nora"],)))
    assert np.abs(halves - whole).max() <= ROUNDING


@pytest.mark.slow
def test_columns_of_strengths_and_several_adapters_have_them_in_their_recipes(pipe, used, tmp_path):
    paths = [used["nora"].path, used["lora"].path]
    columns = adapter_columns(paths, weights=(0.5, 1.0), strengths=(1.0, 2.0))
    assert [column.label for column in columns] == [
        "base", "NoRA × 1", "NoRA × 2", "LoRA × 1", "LoRA × 2",
    ]  # fmt: skip
    columns += adapter_columns(paths, False, weights=(0.5, 0.25), together=True)
    drawing = GenerationSettings("tiny", (PROMPTS[0],), (0,), 1, 2.0, SIZE)
    pictures = generate_missing(pipe, columns, drawing, tmp_path)
    recipes = {label: read_recipe(files[PROMPTS[0], 0]) for label, files in pictures.items()}
    assert [recipe.strength for recipe in recipes.values()] == [1.0, 0.5, 1.0, 1.0, 2.0, 1.0]
    both = recipes["NoRA + LoRA"]
    assert (both.adapter, both.method) == ("nora + lora", "mix")
    assert both.strengths == [["nora", 0.5], ["lora", 0.25]]
    assert both.trigger == "sks"  # one word of both
    assert len({file.read_bytes() for files in pictures.values() for file in files.values()}) == 6
    with pytest.raises(StudioError, match="one number for each of 2"):
        adapter_columns(paths, weights=(0.5,))


def test_labels_with_the_same_slug_get_different_folders(pipe, used, tmp_path):
    use = used["nora"]
    columns = [ComparisonColumn("x -1", (at(use, -1.0),)), ComparisonColumn("x 1", (use,))]
    drawing = GenerationSettings("tiny", (PROMPTS[0],), (0,), 1, 2.0, SIZE)
    pictures = generate_missing(pipe, columns, drawing, tmp_path)
    files = [file for own in pictures.values() for file in own.values()]
    assert len({file.parent for file in files}) == 2
    assert files[0].read_bytes() != files[1].read_bytes()
    with pytest.raises(StudioError, match="columns with different names"):
        generate_missing(pipe, [columns[0], columns[0]], drawing, tmp_path)


def test_a_recipe_survives_json(pipe, used, tmp_path):
    columns = adapter_columns([used["nora"].path, used["lora"].path], together=True)
    drawing = GenerationSettings("tiny", (PROMPTS[0],), (0,), 1, 2.0, SIZE)
    pictures = generate_missing(pipe, columns, drawing, tmp_path)
    recipe = read_recipe(pictures["NoRA + LoRA"][PROMPTS[0], 0])
    assert json.loads(json.dumps(recipe.strengths)) == recipe.strengths
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    generate_missing(pipe, columns, drawing, tmp_path)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
