"""`--fit`: the first settings, dearest last, whose measured need is within the limit."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from support.trainer import SCRIPT, only_unet, run_trainer, tiny_arguments, tiny_options

from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import options_given, parse_options
from nora_studio.runs.runs import Run
from nora_studio.tasks.dreambooth.fitting import candidates, fitted, measure

NONE: frozenset[str] = frozenset()


def names_of(listed) -> list[str]:
    return [name for name, _ in listed]


def test_savings_add_up_from_cheap_to_dear_and_what_was_given_stays(
    tiny_base, photo_folder, tmp_path
):
    options = tiny_options(tiny_base, photo_folder, tmp_path)
    listed = candidates(options, NONE)
    names = [name for name in names_of(listed) if "micro" not in name]
    assert names == ["as asked", "gradient checkpointing", "8-bit base", "4-bit base"]
    assert listed[0][1] == {}
    assert listed[-1][1].items() >= {"gradient_checkpointing": True, "base_bits": 4}.items()
    for (_, fewer), (_, more) in pairwise(listed):
        assert set(fewer) <= set(more)
    assert not any(
        "bit" in name for name in names_of(candidates(options, frozenset({"base_bits"})))
    )
    given = frozenset({"gradient_checkpointing"})
    assert "gradient checkpointing" not in names_of(candidates(options, given))
    for method, wanted in {"pissa": [], "nora,dora": ["4-bit base"]}.items():
        other = tiny_options(tiny_base, photo_folder, tmp_path, method=method)
        assert [name for name in names_of(candidates(other, NONE)) if "bit" in name] == wanted


def test_given_is_what_flags_and_files_set_to_whatever_value(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("base_bits = 16\n", encoding="utf-8")
    words = ["--no-gradient-checkpointing", "--steps=5", "--unet.rank", "3", "--config", str(file)]
    given = options_given(words)
    assert given >= {"gradient_checkpointing", "steps", "base_bits"}
    assert "batch_size" not in given
    assert options_given([f"--config={file}"]) >= {"base_bits"}


@pytest.mark.slow
def test_a_run_that_fits_as_asked_is_trained_as_asked(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"fit": 1000, "steps": 2, "sample-every": 0})
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 0, outcome.err
    table = [line for line in outcome.out.splitlines() if line.startswith(("tried", "as asked"))]
    assert len(table) == 2
    assert table[1].endswith("yes")
    config = tomllib.loads((tmp_path / "mug-lora" / "config.toml").read_text())
    assert (config["gradient_checkpointing"], config["base_bits"]) == (False, 16)


@pytest.mark.slow
def test_where_nothing_fits_one_line_says_the_smallest_need(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"fit": 0.01, "base-bits": 16, "gradient-checkpointing": True})
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    table = [row for row in map(_tried, outcome.out.splitlines()) if row]
    least = min(needed for _, needed, _ in table)
    assert f"the least memory measured is {least:.2f} GiB" in outcome.errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_is_told_as_the_trainer_tells_it(tiny_base, photo_folder, tmp_path):
    changes = only_unet({"fit": 1000, "trigger": "supercalifragilistic"})
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    assert "--trigger: expected a word that is one token" in outcome.errors[0]


def test_a_resumed_run_keeps_what_was_found_without_measuring(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path, method="lora", fit=3.0, resume=True)
    Run.create(tmp_path / "mug-lora", "gradient_checkpointing = true\nbase_bits = 4\n")
    said: list[str] = []
    found = fitted(options, NONE, Path("no script is run"), said.append)
    assert (found.gradient_checkpointing, found.base_bits, said) == (True, 4, [])
    kept = fitted(options, frozenset({"base_bits"}), Path("no script is run"), said.append)
    assert kept.base_bits == 16  # and is then refused, as any other option would be


def wide_sdxl(base: Path, folder: Path) -> Path:
    """The tiny pipeline with a UNet of half a GiB, nearly all of it in attention blocks."""
    pipe = StableDiffusionXLPipeline.from_pretrained(str(base))
    config = dict(pipe.unet.config) | {
        "block_out_channels": (32, 1024),
        "attention_head_dim": (2, 16),
        "transformer_layers_per_block": (1, 2),
    }
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel.from_config(config)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_limit_takes_the_first_rung_that_was_measured_to_fit(tiny_base, tmp_path):
    base, photos = wide_sdxl(tiny_base, tmp_path / "wide"), tmp_path / "mug"
    photos.mkdir()
    for number in range(2):
        picture = Image.effect_noise((300, 300), 60 + number).convert("RGB")
        picture.save(photos / f"{number}.png")
    flags = only_unet({"steps": 2, "resolution": 256, "batch-size": 4, "sample-every": 0})
    arguments = tiny_arguments(base, photos, tmp_path / "runs", "lora", flags)
    options = with_recommended(parse_options(arguments))
    listed = candidates(options, NONE)
    tries = list(measure(options, listed, SCRIPT))
    for tried in tries:
        print(tried)
    needs = {tried.name: tried.needed_gib or 0.0 for tried in tries}
    assert needs["gradient checkpointing"] < needs["as asked"] - 0.1
    least = min(needs[tried.name] for tried in tries[2:])
    assert least < needs["gradient checkpointing"] - 0.1
    # What a process needs differs a little from one to the next: the run's own table decides.
    limit = round((least + needs["gradient checkpointing"]) / 2, 3)
    outcome = run_trainer(*arguments, "--fit", str(limit))
    assert outcome.status == 0, outcome.err
    table = [row for row in map(_tried, outcome.out.splitlines()) if row]
    assert [name for name, _, _ in table] == [name for name, _ in listed][: len(table)]
    assert table[0][2] is False
    for _, needed, fits in table:
        assert abs(needed - limit) < 0.01 or fits is (needed < limit)  # printed to 0.01
    assert [fits for _, _, fits in table].index(True) == len(table) - 1
    changes = dict(listed)[table[-1][0]]
    config = tomllib.loads((tmp_path / "runs" / "mug-lora" / "config.toml").read_text())
    assert {name: config[name] for name in changes} == changes
    outcome = run_trainer(*arguments, "--fit", str(limit), "--resume")
    assert outcome.status == 0, outcome.err
    assert "tried" not in outcome.out


def _tried(line: str) -> tuple[str, float, bool] | None:
    """A row of the table of tries: its name, GiB, and whether it fits."""
    row = re.fullmatch(r"(\S.*?) {2,}([\d.]+) +[\d.]+ +(yes|no)", line)
    return (row[1], float(row[2]), row[3] == "yes") if row else None
