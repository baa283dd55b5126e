"""Going on: by the path given, from the newest whole checkpoint, never over a finished adapter."""

import shutil
from pathlib import Path

import pytest
from support.golden_set import TASKS
from support.places import GOLDEN
from support.tiny import tiny_clip
from support.trainer import Outcome, run_trainer

from nora_studio.errors import StudioError
from nora_studio.options.options_file import parse_options
from nora_studio.runs.checksums import CHECKSUMS, damage
from nora_studio.runs.history import find_run, move_to_trash, summarize
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.run_folders import locate_runs
from nora_studio.runs.runs import Run

STOPPED = GOLDEN / "runs" / "stopped-nora"


@pytest.fixture
def golden(tmp_path, monkeypatch) -> Path:
    """A copy of what an earlier version wrote, and the folder to stand in."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    return folder


def flip_a_bit(file: Path, place: int = -9) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def keeping_two(config: Path) -> None:
    lines = config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("keep_checkpoints")]
    tables = next((n for n, line in enumerate(kept) if line.startswith("[")), len(kept))
    config.write_text("\n".join([*kept[:tables], "keep_checkpoints = 2", *kept[tables:]]) + "\n")


@pytest.mark.parametrize(
    "name",
    [name if name == "stopped" else pytest.param(name, marks=pytest.mark.slow) for name in TASKS],
)
def test_a_moved_run_goes_on_a_damaged_checkpoint_gives_way_and_an_adapter_stays(golden, name):
    script, methods = TASKS[name]
    if name == "tiny":
        tiny_clip(golden / "bases" / "clip")
    places = [golden / "elsewhere" / f"New-{method}" for method in methods]
    for method, place in zip(methods, places, strict=True):
        place.parent.mkdir(exist_ok=True)
        (golden / "runs" / f"{name}-{method}").rename(place)
        keeping_two(place / "config.toml")
    (golden / "link").symlink_to(places[0])
    config = Path("link") / "config.toml"

    def resume() -> Outcome:
        return run_trainer("--config", str(config), "--resume", script=script)

    outcome = resume()
    assert outcome.status == 0, outcome.err
    assert "Continuing after step" in outcome.out
    runs = [Run(place) for place in places]
    assert [run.state for run in runs] == ["finished"] * 2
    assert not any((golden / "runs" / f"{name}-{method}").exists() for method in methods)
    assert all(list(run.checkpoints())[-1] == 14 for run in runs)
    before = next(iter(runs[0].checkpoints()))

    newest = runs[0].checkpoints()[14]
    assert damage(newest) is None
    flip_a_bit(newest / "state.safetensors")
    outcome = resume()
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.out.splitlines() if "is damaged" in line]
    assert line.startswith(f"{newest} is damaged (state.safetensors is not as it was written")
    assert line.endswith(f"continuing from step {before} instead.")
    assert f"Continuing after step {before} of 14" in outcome.out
    assert damage(newest) is None, "written again"

    adapter = {f: f.read_bytes() for f in runs[0].adapter.rglob("*") if f.is_file()}
    shutil.rmtree(runs[0].folder / "checkpoints")
    outcome = resume()
    assert outcome.status == 2
    (error,) = outcome.errors
    assert "no checkpoint to continue from" in error
    assert "start another run with another --name" in error
    assert adapter == {f: f.read_bytes() for f in runs[0].adapter.rglob("*") if f.is_file()}
    assert runs[0].state == "finished"


@pytest.fixture
def run(tmp_path) -> Run:
    """A run with three whole checkpoints."""
    made = Run.create(tmp_path / "mug-nora", 'steps = 9\nmethod = "nora"\n')

    def write(folder: Path) -> None:
        shutil.copytree(STOPPED / "checkpoints" / "step-000004", folder, dirs_exist_ok=True)

    for step in (2, 4, 6):
        made.save_checkpoint(step, write)
    return made


def test_every_file_of_a_checkpoint_is_watched_to_the_bit(run):
    folder = run.checkpoints()[6]
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    assert len(files) == 9, "three parts of two files, the card, the state and the checksums"
    assert damage(folder) is None
    for file in files:
        content = file.read_bytes()
        for place in (0, len(content) // 2, -1):
            flip_a_bit(file, place)
            assert damage(folder), (file, place)
            file.write_bytes(content)
        for less in (content[:-1], b"", content + b" "):
            file.write_bytes(less)
            assert damage(folder) or file.name == CHECKSUMS, file
            file.write_bytes(content)
        if file.name != CHECKSUMS:
            file.unlink()
            assert damage(folder) == f"{file.relative_to(folder).as_posix()} is missing"
            file.write_bytes(content)
    assert damage(folder) is None


def test_a_checkpoint_of_an_earlier_version_is_whole_unless_it_is_cut_short(golden):
    folder = golden / "runs" / "stopped-nora" / "checkpoints" / "step-000004"
    assert damage(folder) is None
    for name in ("state.safetensors", "unet/adapter_model.safetensors", "card.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-20])
        assert str(damage(folder)).startswith(f"{name} cannot be read: ")
        (folder / name).write_bytes(content)
    (folder / "state.safetensors").unlink()
    assert damage(folder) == "state.safetensors is missing"


def test_as_many_damaged_checkpoints_as_there_are_give_way_one_by_one(run):
    told: list[str] = []
    for spoiled, left in ((6, 4), (4, 2)):
        flip_a_bit(run.checkpoints()[spoiled] / "card.json")
        told.clear()
        assert common_checkpoint([run], told.append) == left
        assert all(line.endswith(f"continuing from step {left} instead.") for line in told)
    assert len(told) == 2
    flip_a_bit(run.checkpoints()[2] / "card.json")
    with pytest.raises(StudioError, match=r"step-000006 is damaged .* no earlier one.*--name"):
        common_checkpoint([run])


def test_a_twins_damaged_checkpoint_sets_both_back(run, tmp_path):
    twin = Run(Path(shutil.copytree(run.folder, tmp_path / "mug-lora")))
    flip_a_bit(twin.checkpoints()[6] / "state.safetensors")
    assert common_checkpoint([run, twin], lambda line: None) == 4


def resumed(*words: str) -> tuple[dict[str, Run], str, str | None]:
    """Where runs are found, and folder and name in their options."""
    argv = [*words, "--resume"]
    options, runs = locate_runs(parse_options(argv), argv)
    return runs, str(options.output_dir), options.name


def test_a_runs_place_is_the_path_given_however_it_is_spelled(golden, monkeypatch):
    shutil.move("runs", "kept")
    for spelled in (
        "kept/stopped-nora",
        "./kept/../kept/stopped-nora/",
        str(golden / "kept" / "stopped-nora"),
    ):
        runs, folder, name = resumed("--config", f"{spelled}/config.toml")
        assert all(run.exists for run in runs.values()), spelled
        assert name == "stopped", "what was derived from its name stays"
        assert Path(folder).samefile("kept")
    runs, _, name = resumed("--config=kept/stopped-lora/config.toml", "--name", "mug")
    assert {str(run.folder) for run in runs.values()} == {"runs/mug-nora", "runs/mug-lora"}
    monkeypatch.chdir("kept/stopped-nora")
    runs, *_ = resumed("--config", "config.toml", "--model", "x")
    assert all(run.exists for run in runs.values())


def test_a_renamed_run_is_told_by_its_status_its_name_or_its_card(golden):
    first = golden / "runs" / "stopped-nora"
    first = first.rename(first.with_name("My Mug"))
    runs, _, name = resumed("--config", str(first / "config.toml"))
    assert runs["nora"].folder == first, "by the card of its checkpoint"
    assert runs["lora"].folder.name == "stopped-lora", (
        "its twin keeps the name that they began with"
    )
    assert (name, summarize(Run(first)).method) == ("stopped", "nora")
    Run(first, "nora").set_status("stopped", 4, 14)
    shutil.rmtree(first / "checkpoints")
    assert summarize(Run(first)).method == "nora", "by its status"
    (first / "status.json").unlink()
    with pytest.raises(
        StudioError, match=r"one of the methods nora, lora; got .*My Mug\. Rename it"
    ):
        resumed("--config", str(first / "config.toml"))


def test_a_twin_that_is_missing_is_named_and_the_other_may_go_on_alone(golden):
    moved = Path("alone") / "stopped-nora"
    moved.parent.mkdir()
    shutil.move("runs/stopped-nora", moved)
    with pytest.raises(
        StudioError, match=r"trained together with lora.*alone.stopped-lora.*--method nora"
    ):
        resumed("--config", str(moved / "config.toml"))
    runs, *_ = resumed("--config", str(moved / "config.toml"), "--method", "nora")
    assert list(runs) == ["nora"]
    config = (moved / "config.toml").read_text().replace("nora,lora", "nora")
    Run(moved).check_config(config)
    shutil.move(moved, "runs/stopped-nora")
    refusal = r"trained together with runs.stopped-lora, so both must.*Give --method nora,lora"
    with pytest.raises(StudioError, match=refusal):
        resumed("--config", "runs/stopped-nora/config.toml", "--method", "nora")


def test_another_model_is_named_as_such_and_another_spelling_is_none(golden):
    run = Run(golden / "runs" / "stopped-nora")
    config = (run.folder / "config.toml").read_text()
    for same in ("./bases/../bases/sdxl", str(golden / "bases" / "sdxl")):
        run.check_config(config.replace('"bases/sdxl"', f'"{same}"'))
    with pytest.raises(StudioError) as refusal:
        run.check_config(config.replace('"bases/sdxl"', '"embedded"'))
    assert "was trained; got embedded. Leave --model" in str(refusal.value)
    moved = config.replace('"bases/sdxl"', '"./bases/sdxl"')
    (run.folder / "config.toml").write_text(moved)
    (golden / "bases" / "sdxl").rename(golden / "moved")
    run.check_config(config.replace('"bases/sdxl"', '"moved"'))  # Its weights will tell.
    config = moved
    with pytest.raises(StudioError, match="instance_dir"):
        run.check_config(config.replace('"photos/mug"', '"photos"'))


def test_a_run_is_thrown_away_from_wherever_it_is_named(golden, monkeypatch):
    (golden / "link").symlink_to(golden / "runs" / "mug-nora")
    place = move_to_trash(find_run("link", golden / "runs"))
    assert place.parent == golden / "runs" / ".trash"
    assert place.name.startswith("mug-nora~")
    monkeypatch.chdir(golden / "runs" / "mug-lora")
    assert move_to_trash(find_run(".", Path("runs"))).name.startswith("mug-lora~")
