"""Options of watching: what stands for those not given, and what nothing would read is refused."""

from pathlib import Path

import pytest

from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options, to_toml

NEEDED = {"instance_dir": Path("photos/mug"), "prompt": "a photo of a [V] mug"}
FLAGS = ["--instance-dir", "photos/mug", "--prompt", "a photo of a [V] mug"]


def resolved(**changes) -> DreamboothOptions:
    return with_recommended(DreamboothOptions(**(NEEDED | changes)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patience": 2}, ("--patience", "--early-stop")),
        ({"patience": 0, "early_stop": "plateau"}, ("--patience", "above 0")),
        ({"early_stop": "overfit"}, ("--early-stop overfit", "--hold-out", "plateau")),
        ({"early_stop": "plateau", "evaluate_every": 0}, ("--early-stop", "--evaluate-every is 0")),
        ({"keep_best": True, "evaluate_every": 0}, ("--keep-best", "--evaluate-every is 0")),
        ({"final": "best", "evaluate_every": 0}, ("--final best", "--evaluate-every is 0")),
        ({"final": "best", "keep_best": False}, ("--final best", "--no-keep-best")),
        ({"clip": "x", "score_samples": False}, ("--clip", "--score-samples")),
        ({"score_samples": True, "model": "a/b"}, ("--score-samples", "--clip")),
        ({"sample_prompts": ("a", "a")}, ("--sample-prompts", "different prompts")),
        ({"sample_prompts": ("a", " ")}, ("--sample-prompts", "no empty prompts")),
        (
            {"early_stop": "plateau", "steps": 150, "evaluate_every": 50},
            ("2 measurements", "patience of 3", "needs 4"),
        ),
    ],
)
def test_what_nothing_would_read_is_refused_in_one_line(changes, words):
    with pytest.raises(StudioError) as refusal:
        resolved(**changes)
    assert "\n" not in str(refusal.value)
    assert all(word in str(refusal.value) for word in words)


def test_an_early_stop_may_come_as_soon_as_its_patience_allows():
    rule = {"early_stop": "plateau", "patience": 2, "evaluate_every": 10}
    assert resolved(**rule, steps=31).patience == 2
    with pytest.raises(StudioError, match="2 measurements before the last"):
        resolved(**rule, steps=30)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (False, "last", None)),
        ({"hold_out": 1}, (True, "last", None)),
        ({"hold_out": 1, "evaluate_every": 0}, (False, "last", None)),
        ({"hold_out": 1, "keep_best": False}, (False, "last", None)),
        ({"final": "best"}, (True, "best", None)),
        ({"early_stop": "plateau", "steps": 500}, (False, "last", 3)),
        ({"early_stop": "overfit", "steps": 500, "hold_out": 1}, (True, "best", 3)),
        (
            {"early_stop": "overfit", "steps": 500, "hold_out": 1, "final": "last"},
            (True, "last", 3),
        ),
    ],
)
def test_the_best_is_kept_and_used_where_it_says_something(changes, expected):
    options = resolved(**changes)
    assert (options.keep_best, options.final, options.patience) == expected
    assert with_recommended(options) == options


@pytest.mark.parametrize(
    ("changes", "scored"),
    [
        ({}, True),
        ({"score_samples": False}, False),
        ({"model": "some/sdxl"}, False),
        ({"model": "some/sdxl", "clip": "ViT-B-32:openai"}, True),
        ({"model": str(embedded("mini-sdxl"))}, True),
    ],
)
def test_samples_are_scored_where_there_is_a_judge(changes, scored):
    assert resolved(**changes).score_samples is scored


def test_several_prompts_come_by_flag_and_by_file(tmp_path):
    by_flags = parse_options([*FLAGS, "--sample-prompts", "a [V] mug", "a [V] mug, wet"])
    assert by_flags.sample_prompts == ("a [V] mug", "a [V] mug, wet")
    file = tmp_path / "config.toml"
    file.write_text(to_toml(by_flags), encoding="utf-8")
    assert parse_options(["--config", str(file)]) == by_flags


def test_a_file_from_when_there_was_one_sample_prompt_is_still_read(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('sample_prompt = "a [V] mug in the snow"\n', encoding="utf-8")
    assert parse_options([*FLAGS, "--config", str(file)]).sample_prompts == (
        "a [V] mug in the snow",
    )


def test_the_old_flag_is_refused_with_the_new_one_named():
    with pytest.raises(StudioError, match="--sample-prompts"):
        parse_options([*FLAGS, "--sample-prompt", "snow"])
