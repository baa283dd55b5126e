"""One range for a number, whichever door it comes through; a random seed is drawn and recorded."""

import pytest

from nora_studio.app.server.image_requests import parse_request
from nora_studio.cli.commands.generate import Options as GenerateOptions
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.number_ranges import MAXIMUM_SEED
from nora_studio.options.options_file import parse_options, to_toml

NEEDED = ["--instance-dir", "photos/mug", "--prompt", "a photo of a [V] mug"]
REQUEST = {"columns": [{"label": "base"}], "prompts": ["a mug"]}
BAD = [MAXIMUM_SEED + 1, 2**62, 2**64, -2]


def by_train(seed: int) -> int:
    return parse_options([*NEEDED, "--seed", str(seed)]).seed


def by_generate(seed: int) -> int:
    words = ["--prompts", "a mug", "--seeds", str(seed)]
    return parse_command(GenerateOptions, words).seeds[0]


def by_request(seed: int) -> int:
    return parse_request({**REQUEST, "seeds": [seed]}).seeds[0]


@pytest.fixture
def by_file(tmp_path):
    def read(seed: int) -> int:
        file = tmp_path / "options.toml"
        file.write_text(f"seed = {seed}\n", encoding="utf-8")
        return parse_options([*NEEDED, "--config", str(file)]).seed

    return read


def test_every_door_takes_and_refuses_the_same_seeds(by_file):
    for door in (by_train, by_generate, by_request, by_file):
        assert [door(seed) for seed in (0, 7, MAXIMUM_SEED)] == [0, 7, MAXIMUM_SEED]
        for seed in BAD:
            with pytest.raises(StudioError, match=f"{MAXIMUM_SEED}"):
                door(seed)
        drawn = {door(-1) for _ in range(4)}
        assert len(drawn) > 1 and all(0 <= seed <= MAXIMUM_SEED for seed in drawn)


def test_a_random_seed_is_written_down_as_what_was_drawn():
    options = parse_options([*NEEDED, "--seed", "-1"])
    assert options.seed != -1
    assert f"seed = {options.seed}" in to_toml(options)


def test_several_processes_would_each_draw_another_seed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StudioError, match="several processes"):
        by_train(-1)


@pytest.mark.parametrize("value", ["nan", "1.5", "0x10", "", "9" * 500, str(10**30), "many"])
def test_what_is_no_whole_number_in_range_is_refused_by_its_option(value):
    with pytest.raises(StudioError, match="--steps: expected a whole number"):
        parse_options([*NEEDED, "--steps", value])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "x", ""])
def test_what_is_no_finite_number_is_refused_by_its_option(value):
    with pytest.raises(StudioError, match=r"--unet.learning-rate: expected a"):
        parse_options([*NEEDED, "--unet.learning-rate", value])


def test_a_gradient_may_be_clipped_at_infinity_which_is_never():
    assert parse_options([*NEEDED, "--max-gradient-norm", "inf"]).max_gradient_norm == float("inf")
