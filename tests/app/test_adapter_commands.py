"""The Adapters page's actions become commands that run, and other values are refused."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.app.server.adapter_commands import (
    FORMATS,
    MERGED,
    AdapterCommand,
    AdapterCommandBuilder,
)
from nora_studio.app.server.adapter_results import card_in_push_preview
from nora_studio.app.server.adapter_uploads import add_adapter
from nora_studio.app.server.image_requests import AdapterChoice
from nora_studio.app.server.library import find_entry, library, remove_file, restore_file
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace
from nora_studio.cli.main import dispatch
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl

NORA, LORA = "runs/mug-nora", "runs/mug-lora"


@pytest.fixture
def workspace(tmp_path, twins) -> Workspace:
    """A visitor with two finished runs."""
    workspace = Workspace.open(tmp_path / "home", "0" * 32)
    for name in ("mug-nora", "mug-lora"):
        shutil.copytree(twins[0] / name, workspace.runs / name)
    return workspace


@pytest.fixture
def commands(workspace) -> AdapterCommandBuilder:
    return AdapterCommandBuilder(workspace, lambda model: True)


@pytest.fixture
def carry_out(workspace, monkeypatch, capsys):
    """Runs an order's own words in the visitor's folder, as the queue does in a process."""

    def run(order: AdapterCommand) -> str:
        monkeypatch.chdir(workspace.folder)
        assert order.shown == shlex.join(["nora-studio", *order.arguments])
        assert dispatch(order.arguments) == 0
        return capsys.readouterr().out

    return run


def test_the_library_shows_runs_and_files_with_their_samples(workspace, commands, carry_out):
    carry_out(commands.export(NORA, "kohya"))
    shelf = {entry.path: entry for entry in library(workspace)}
    assert set(shelf) == {NORA, LORA, "adapters/mug-nora-kohya.safetensors"}
    run, file = shelf[NORA], shelf["adapters/mug-nora-kohya.safetensors"]
    assert run.kind == "run" and file.kind == "kohya"
    assert run.card is not None and run.card.method == "nora" and run.card.steps == 6
    assert run.thumbnail is not None and run.thumbnail.name == "step-000006-01.png"
    assert file.thumbnail == run.thumbnail and file.bytes < run.bytes
    assert shelf[LORA].thumbnail != run.thumbnail
    assert next(iter(library(workspace))) == file  # the newest first


@pytest.mark.parametrize("to", FORMATS)
def test_an_exported_file_is_a_loadable_adapter(workspace, commands, carry_out, to):
    said = carry_out(commands.export(NORA, to))
    file = workspace.adapters / f"mug-nora-{to}.safetensors"
    assert file.is_file() and str(workspace.folder) not in said
    assert open_adapter(file).card.trigger == open_adapter(workspace.runs / "mug-nora").card.trigger
    again = commands.export(NORA, to)
    assert f"adapters/mug-nora-{to}-2.safetensors" in again.arguments
    # Of an export a further one, by the base that its header names or that is told.
    onward = commands.export(f"adapters/{file.name}", "diffusers", "fp32", 2, "mine", "embedded")
    assert "adapters/mine.safetensors" in onward.arguments and "--rank" in onward.arguments


def test_a_mix_and_a_merge_use_each_adapters_strength(workspace, commands, carry_out, tiny_base):
    both = [AdapterChoice(NORA, 0.5), AdapterChoice(LORA, 1.25)]
    mix = commands.mix(both, "both")
    assert "0.5 x mug-nora" in carry_out(mix) and "1.25" in mix.shown
    assert (workspace.adapters / "both.safetensors").is_file()
    carry_out(commands.merge(both, "whole", "fp32"))
    merged = workspace.folder / MERGED / "whole"
    assert load_sdxl(str(merged)).unet.config["in_channels"] == 4  # pyright: ignore
    assert f"{MERGED}/whole-2" in commands.merge(both, "whole").arguments


def test_a_dry_run_of_publishing_shows_the_model_card(commands, carry_out):
    order = commands.push(NORA, "ada/my-mug", "mit")
    assert "--dry-run" in order.arguments and "--private" in order.arguments
    page = card_in_push_preview(carry_out(order))
    assert page.startswith("---\n") and "license: mit" in page and "# mug-nora" in page
    assert "Nothing was sent" not in page
    assert "--dry-run" not in order.without_dry_run().arguments
    sent = commands.push(NORA, "ada/my-mug", "mit", True, False)
    assert order.without_dry_run().arguments == sent.arguments


def test_inspecting_shows_method_and_layers(commands, carry_out):
    assert "method" in carry_out(commands.inspect(NORA))


def test_a_command_is_run_by_this_python(commands):
    order = commands.inspect(LORA)
    assert order.argv == [sys.executable, "-m", "nora_studio.cli", "inspect", LORA]
    assert order.shown == f"nora-studio inspect {LORA}"


@pytest.mark.parametrize(
    "path",
    ["runs/none", "../x", "/etc/passwd", "", "runs/mug-nora/adapter", "--help", "adapters/x\x00"],
)
def test_only_adapters_of_the_library_are_accepted(commands, path):
    for order in (
        lambda: commands.export(path, "kohya"),
        lambda: commands.mix([AdapterChoice(path), AdapterChoice(NORA)], "x"),
        lambda: commands.merge([AdapterChoice(path)], "x"),
        lambda: commands.push(path, "a/b"),
        lambda: commands.inspect(path),
    ):
        with pytest.raises(StudioError, match="no adapter"):
            order()


def test_values_that_are_not_allowed_are_refused(commands):
    for order, told in (
        (lambda: commands.export(NORA, "pickle"), "expected a format"),
        (lambda: commands.export(NORA, "kohya", "int8"), "expected a precision"),
        (lambda: commands.export(NORA, "kohya", None, -1), "expected a rank"),
        (lambda: commands.export(NORA, "kohya", name="../x"), "expected a name"),
        (lambda: commands.mix([AdapterChoice(NORA)], "x"), "two adapters"),
        (lambda: commands.mix([AdapterChoice(NORA), AdapterChoice(NORA)], "x"), "twice"),
        (
            lambda: commands.mix([AdapterChoice(NORA, float("nan")), AdapterChoice(LORA)], "x"),
            "strength",
        ),
        (lambda: commands.mix([AdapterChoice(NORA, -1), AdapterChoice(LORA)], "x"), "strength"),
        (lambda: commands.mix([AdapterChoice(NORA)] * 9, "x"), "at most 8"),
        (lambda: commands.merge([], "x"), "no adapter is chosen"),
        (lambda: commands.merge([AdapterChoice(NORA)], "-rf"), "expected a name"),
        (lambda: commands.push(NORA, "a"), "owner/name"),
        (lambda: commands.push(NORA, "--private/x"), "owner/name"),
        (lambda: commands.push(NORA, "a/b/c"), "owner/name"),
        (lambda: commands.push(NORA, "a/b", "--x"), "licence"),
    ):
        with pytest.raises(StudioError, match=told):
            order()


def test_a_base_that_visitors_may_not_load_is_not_loaded(workspace, twins):
    asked: list[str] = []
    commands = AdapterCommandBuilder(workspace, lambda model: bool(asked.append(model)))
    for order in (
        lambda: commands.export(NORA, "kohya"),
        lambda: commands.merge([AdapterChoice(NORA)], "x", model="/etc"),
        lambda: commands.push(NORA, "a/b"),
    ):
        with pytest.raises(StudioError, match="cannot be loaded here") as refusal:
            order()
        assert ("was trained on" in str(refusal.value)) == (asked[-1] != "/etc")
    assert asked[1] == "/etc" and asked[0] == open_adapter(workspace.runs / "mug-nora").card.model


words = st.text(max_size=30) | st.sampled_from(["--out=/x", "$(id)", ";rm", "a b", "--weights"])


@given(path=words, to=words, name=words, repository=words, model=words)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]: its members
)
def test_no_value_from_a_page_becomes_a_flag(commands, path, to, name, repository, model):
    for order in (
        lambda: commands.export(path, to, name=name),
        lambda: commands.export(NORA, "kohya", name=name),
        lambda: commands.push(NORA, repository),
    ):
        try:
            arguments = order().arguments
        except StudioError:
            continue
        flags = {word for word in arguments if word.startswith("-")}
        assert flags <= {"--to", "--out", "--private", "--dry-run"}
        assert not any(Path(word).is_absolute() or ".." in word for word in arguments)


def test_a_removed_file_is_restored_with_its_tokens_and_a_run_is_not_removed(
    workspace, commands, carry_out
):
    carry_out(commands.export(NORA, "kohya", name="mine"))
    beside = workspace.adapters / "mine.embedding.safetensors"
    beside.write_bytes(b"tokens")
    path = "adapters/mine.safetensors"
    remove_file(workspace, path)
    assert not beside.exists()
    with pytest.raises(StudioError, match="no adapter"):
        find_entry(workspace, path)
    restore_file(workspace, "mine")
    assert find_entry(workspace, path).bytes > 6 and beside.read_bytes() == b"tokens"
    for name in ("mine", "../mine", ".trash"):
        with pytest.raises(StudioError):
            restore_file(workspace, name)
    with pytest.raises(StudioError, match="under History"):
        remove_file(workspace, NORA)


def test_a_damaged_file_is_listed_with_its_problem_and_not_used(
    workspace, commands, carry_out, tmp_path
):
    carry_out(commands.export(NORA, "kohya", name="mine"))
    file = workspace.adapters / "mine.safetensors"
    upload = tmp_path / "upload"
    shutil.copy(file, upload)
    assert add_adapter(workspace, Upload(upload, "mine.safetensors")).name == "mine-2.safetensors"
    file.write_bytes(file.read_bytes()[:200])
    entry = find_entry(workspace, "adapters/mine.safetensors")
    assert entry.card is None and entry.problem and str(workspace.folder) not in entry.problem
    with pytest.raises(StudioError, match="cannot be used"):
        commands.export("adapters/mine.safetensors", "kohya")
