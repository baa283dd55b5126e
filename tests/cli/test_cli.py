"""The `nora-studio` command: its list, its commands, and their errors."""

import importlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.tiny import RARE_TOKEN, SIZE, tiny_sdxl

from nora_studio import __version__
from nora_studio.cli import main as cli
from nora_studio.runs.scripts import CLIP_SCORE, TRAIN, run_script, script_command, script_path
from nora_studio.sdxl.recipes import read_recipe


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(command, words):
    status, out, _ = command(*words)
    assert status == 0
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert set(lines) == set(cli.COMMANDS)
    assert all(len(line.split()) > 3 for line in lines.values())  # each says what it does


def test_the_list_of_runs_commands_matches_their_help(command):
    listed = dict(line.split(maxsplit=1) for line in command("runs", "--help")[1].splitlines()[2:])
    assert listed.keys() == cli.RUNS.keys()
    for word, line in listed.items():
        options = importlib.import_module(cli.RUNS[word].module).Options
        assert line == options.__doc__.splitlines()[0]


def test_the_version_is_the_packages(command):
    assert command("--version")[:2] == (0, f"nora-studio {__version__}\n")


@pytest.mark.parametrize(
    ("typo", "meant"), [("trian", "train"), ("generat", "generate"), ("scores", "score")]
)
def test_an_unknown_command_is_refused_with_a_suggestion(command, typo, meant):
    status, out, err = command(typo)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert f"'{typo}'" in err
    assert f"Did you mean '{meant}'" in err


def test_an_unknown_command_without_a_near_match_lists_all_commands(command):
    status, _, err = command("xyzzy")
    assert status == 2
    assert all(name in err for name in cli.COMMANDS)
    assert "Did you mean" not in err


@pytest.mark.parametrize("name", ["generate", "compare", "demo"])
def test_each_command_has_its_own_help(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0
    assert f"nora-studio {name}" in out
    assert "--out" in out


def test_a_command_that_runs_a_script_goes_by_its_own_name_in_help():
    words = [sys.executable, "-m", "nora_studio.cli", "train", "--help"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("usage: nora-studio train [-h] [OPTIONS]\n")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["params", "--help"], 128 + signal.SIGPIPE),
        (["train", "--help"], 128 + signal.SIGPIPE),
        (["methods"], 1),  # Rich ends the process itself.
    ],
)
def test_a_command_whose_reader_has_gone_ends_without_a_word(words, status):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "nora_studio.cli", *words], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (status, b"")


def test_an_unknown_flag_of_a_command_is_refused(command):
    status, out, err = command("generate", "--prompts", "a mug", "--sedes", "1")
    assert status == 2
    assert "--seeds" in out + err


@pytest.fixture
def small(twins, tiny_base, tmp_path):
    """Flags of a small drawing with the finished twins."""
    runs = [str(twins[0] / f"mug-{method}") for method in ("nora", "lora")]
    out = tmp_path / "out"
    return runs, out, ["--out", out, "--steps", 2, "--model", tiny_base]


PROMPT = "a [V] mug on the beach"


def test_generate_writes_an_image_with_its_recipe_for_each_prompt_seed_and_adapter(command, small):
    runs, out, flags = small
    words = ["generate", "--prompts", PROMPT, "a pencil sketch", "--seeds", 0, 7]
    status, told, err = command(*words, "--adapters", *runs, *flags, "--strength", 0.5)
    assert status == 0, err
    files = sorted(out.rglob("*.png"))
    assert len(files) == 8
    assert sorted(line for line in told.splitlines() if line.endswith(".png")) == [
        str(file) for file in files
    ]
    recipes = [read_recipe(file) for file in files]
    assert {recipe.method for recipe in recipes} == {"nora", "lora"}
    assert {(recipe.prompt, recipe.seed) for recipe in recipes} == {
        (prompt, seed) for prompt in (PROMPT, "a pencil sketch") for seed in (0, 7)
    }
    assert {(r.strength, r.trigger, r.size, r.steps) for r in recipes} == {
        (0.5, RARE_TOKEN, SIZE, 2)
    }
    assert all(Image.open(file).size == (SIZE, SIZE) for file in files)


def test_generate_without_adapters_uses_the_base(command, small):
    _, out, flags = small
    assert command("generate", "--prompts", PROMPT, *flags)[0] == 0
    (file,) = out.rglob("*.png")
    assert read_recipe(file).adapter is None


def test_compare_generates_with_base_and_adapters_from_the_same_noise(command, small):
    runs, out, flags = small
    status, told, err = command("compare", "--prompts", PROMPT, "--adapters", *runs, *flags)
    assert status == 0, err
    assert told.splitlines()[-1] == str(out / "grid.png")
    files = sorted(file for file in out.rglob("*.png") if file.name != "grid.png")
    assert [read_recipe(file).method for file in files] == [None, "lora", "nora"]
    assert len({file.read_bytes() for file in files}) == 3
    with Image.open(out / "grid.png") as grid:
        assert grid.width > grid.height
        assert np.asarray(grid).std() > 5


def test_strength_zero_is_the_base(command, small):
    runs, out, flags = small
    words = ["compare", "--prompts", "a mug", "--adapters", runs[0], "--strength", 0]
    assert command(*words, *flags)[0] == 0
    pictures = [
        Image.open(file).tobytes() for file in out.rglob("*.png") if "grid" not in file.name
    ]
    assert len(pictures) == 2
    assert pictures[0] == pictures[1]


def test_compare_shows_strengths_as_columns_and_several_adapters_at_once(command, small):
    runs, out, flags = small
    words = ["compare", "--prompts", PROMPT, "--adapters", *runs, *flags]
    assert command(*words, "--strengths", 0.5, 1)[0] == 0
    folders = {file.parent.name for file in out.rglob("*.png")} - {out.name}
    assert folders == {"base", "nora-0-5", "nora-1", "lora-0-5", "lora-1"}
    assert command(*words, "--weights", 0.5, 0.25, "--together")[0] == 0
    (both,) = (out / "nora-lora").glob("*.png")
    assert read_recipe(both).strengths == [["mug-nora", 0.5], ["mug-lora", 0.25]]
    status, _, err = command(*words, "--weights", 0.5)
    assert (status, "one number for each of 2" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--adapters", "nowhere"], "nowhere does not exist"),
        (["--steps", "0"], "--steps: expected a whole number from 1"),
        (["--size", "33"], "multiple of 8"),
        (["--precision", "int8"], "int8"),
        (["--guidance", "1", "--negative", "blurry"], "negative"),
    ],
)
def test_bad_input_to_generate_is_refused_in_one_line(command, tiny_base, tmp_path, words, told):
    flags = ["--model", tiny_base, "--out", tmp_path / "out", "--steps", 1]
    status, _, err = command("generate", "--prompts", PROMPT, *flags, *words)
    assert status == 2
    assert [told in line for line in err.splitlines() if line.startswith("error: ")] == [True]
    assert "Traceback" not in err


def test_compare_without_adapters_is_refused(command):
    status, _, err = command("compare", "--prompts", PROMPT)
    assert (status, err.count("\n")) == (2, 1)
    assert "--adapters" in err


def test_generate_refuses_an_adapter_of_another_base(command, small, tmp_path):
    runs, out, flags = small
    other = tiny_sdxl(tmp_path / "other", seed=1)
    status, _, err = command(
        "generate", "--prompts", PROMPT, "--adapters", runs[0], *flags[:-1], other
    )
    assert status == 2
    assert "another base" in err
    assert not list(out.rglob("*.png"))


def test_scripts_are_found_and_run_as_from_a_shell(tmp_path):
    for name in (TRAIN, CLIP_SCORE):
        assert script_path(name).is_file()
        assert script_command(name, ["--steps", "3"]) == [
            sys.executable,
            str(script_path(name)),
            "--steps",
            "3",
        ]
    with pytest.raises(ValueError, match="Reinstall"):
        run_script("training/none.py", [])


def test_a_scripts_output_and_status_are_passed_on(tmp_path, capfd):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    assert run_script(str(script), ["--steps", "3"]) == 3
    assert capfd.readouterr().out == "['--steps', '3']\n"
