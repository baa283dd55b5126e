"""A visitor's path is checked as it will be opened: it leads to their own files or is refused."""

import os
import socket
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.trainer import run_trainer
from support.visiting import request_of, studio_in

from nora_studio.app.server.drafts import DRAFT, check_draft_photos
from nora_studio.app.server.image_jobs import new_image_job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.library import find_entry
from nora_studio.app.server.training import check_arguments
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.options_file import parse_options
from nora_studio.options.paths import CONFINED, check_inside
from nora_studio.photos.images import list_photos

NEEDED = ["--instance-dir", "photos/mug", "--prompt", "a [V] mug", "--name", "mug"]


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """A visitor with photos, where "~" is a folder with photos of somebody else's."""
    workspace = Workspace.open(tmp_path / "home", "0" * 32)
    for folder in (workspace.photos / "mug", tmp_path / "server" / "x"):
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / "1.png")
    monkeypatch.setenv("HOME", str(tmp_path / "server"))
    return workspace


def refused(workspace: Workspace, flag: str, value: str) -> str:
    """What the Train page says to a path."""
    words = [*NEEDED, flag, value]
    with pytest.raises(StudioError) as refusal:
        check_arguments(workspace, words, lambda _: True)
    line = str(refusal.value)
    assert "\n" not in line and str(workspace.folder) not in line
    return line


HOSTILE = [
    "/etc", "~", "~/x", "./~/x", "~root", "~nobody-here/x", "~+", "..", "../x", "photos/..",
    "photos/../../x", "photos/mug/../../..", "", ".", "photos\\..\\x", "C:/x", "C:x",
    "a\0b", "x" * 256, "ä" * 128, "x/" * 3000, "\ud800", "//host/x", "/dev/stdin", "/proc/self",
]  # fmt: skip


@pytest.mark.parametrize("flag", ["--instance-dir", "--class-dir"])
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_path_of_a_visitors_leaves_their_folder(workspace, flag, value):
    more = ["--prior-weight", "1"] if flag == "--class-dir" else []
    check_arguments(workspace, [*NEEDED, *more], lambda _: True)
    line = refused(workspace, flag, value)
    assert line.startswith((f"{flag}:", f"{flag} needs ", "the command:")) and len(line) < 400


def test_the_trainer_would_have_opened_the_servers_own_photos(workspace, tmp_path):
    assert [file.parent for file in list_photos(Path("~/x"))] == [tmp_path / "server" / "x"]


@pytest.mark.timeout(30)
def test_links_pipes_and_sockets_in_a_visitors_folder_are_refused(workspace, tmp_path):
    outside, photos = tmp_path / "server" / "x", workspace.photos

    def folder(name: str) -> Path:
        (photos / name).mkdir()
        return photos / name

    (photos / "final").symlink_to(outside)
    (photos / "between").symlink_to(outside.parent)
    (folder("file") / "1.png").symlink_to(outside / "1.png")
    (folder("caption") / "1.txt").symlink_to("/etc/hostname")
    (folder("deep") / "a" / "b").mkdir(parents=True)
    (photos / "deep" / "a" / "b" / "c").symlink_to(outside)
    (folder("chain") / "a").symlink_to(photos / "deep")  # It leads to one that leads out.
    (folder("gone") / "1.png").symlink_to(tmp_path / "not-yet")
    (folder("circle") / "1.png").symlink_to(photos / "circle" / "1.png")
    (folder("device") / "1.png").symlink_to("/dev/zero")
    os.mkfifo(folder("pipe") / "1.png")
    (folder("piped") / "1.png").symlink_to(photos / "pipe" / "1.png")
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as here:
        here.chdir(folder("socket"))  # The system takes no long path of one.
        server.bind("1.png")
    os.mkfifo(photos / "bare")
    names = {path.name for path in photos.iterdir()} - {"mug", "between", "circle"}
    for name in sorted(names | {"between/x"}):
        for flag in ("--instance-dir", "--class-dir"):
            line = refused(workspace, flag, f"photos/{name}")
            assert line.startswith(flag) and str(tmp_path) not in line, name
    # A link that stays within is none of these.
    (folder("within") / "1.png").symlink_to(photos / "mug" / "1.png")
    assert check_inside(workspace.folder, "photos/within", "x") == photos / "within"


@pytest.mark.timeout(30)
def test_a_pipe_among_photos_is_refused_at_the_command_line_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(StudioError, match=r"1\.png is a pipe, device or socket"):
        list_photos(tmp_path)


def test_the_drafts_photos_are_checked_before_they_are_copied(workspace, tmp_path):
    (workspace.photos / DRAFT).mkdir()
    (workspace.photos / DRAFT / "1.png").symlink_to(tmp_path / "server" / "x" / "1.png")
    with pytest.raises(StudioError, match="link that leads out"):
        check_draft_photos(workspace, 64)


def test_adapters_and_runs_with_links_out_are_refused_everywhere(workspace, tmp_path):
    elsewhere = tmp_path / "server" / "run"
    for run in (elsewhere, workspace.runs / "mug-nora"):
        (run / "adapter").mkdir(parents=True)
        (run / "config.toml").write_text("steps = 1\n", encoding="utf-8")
        (run / "adapter" / "card.json").write_text("{}", encoding="utf-8")
    (workspace.runs / "all-nora").symlink_to(elsewhere)
    part = workspace.runs / "part-nora"
    part.mkdir()
    (part / "config.toml").write_text("steps = 1\n", encoding="utf-8")
    (part / "adapter").symlink_to(elsewhere / "adapter")
    (workspace.adapters / "x.safetensors").symlink_to(elsewhere / "adapter" / "card.json")
    (workspace.adapters / "y.safetensors").write_bytes(b"")
    (workspace.adapters / "y.embedding.safetensors").symlink_to(elsewhere / "config.toml")
    assert workspace.adapter("runs/mug-nora") == workspace.runs / "mug-nora"
    assert find_entry(workspace, "runs/mug-nora").path == "runs/mug-nora"
    for name in ("all-nora", "part-nora"):
        for door in (Workspace.adapter, find_entry, lambda own, path: own.run(Path(path).name)):
            with pytest.raises(StudioError):
                door(workspace, f"runs/{name}")
    for name in ("x", "y"):
        with pytest.raises(StudioError):
            find_entry(workspace, f"adapters/{name}.safetensors")
    for path in ["adapters/y.safetensors", "adapters/x.safetensors", "runs", *HOSTILE]:
        with pytest.raises(StudioError) as refusal:
            asked = {"columns": [{"label": "a", "adapters": [{"path": path}]}], "prompts": ["a"]}
            new_image_job(workspace, asked)
        assert "\n" not in str(refusal.value)
    for path in HOSTILE:
        with pytest.raises(StudioError):
            workspace.own_file(path)


def test_a_visitors_models_are_names_or_allowed_folders(tmp_path, monkeypatch):
    studio = studio_in(tmp_path / "home")
    studio.workspace(request_of(studio).headers)
    (tmp_path / "models" / "sdxl").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    for name in ("embedded", "owner/name", "hf-hub:owner/name", "ViT-B-32:openai"):
        assert studio.is_model_allowed(name), name
    assert studio.is_model_allowed(str(tmp_path / "models" / "sdxl"))
    for name in [
        *(one for one in HOSTILE if not one.startswith(("/", "~", "C:x"))), "~nobody-here/x",
        "sdxl", "../models/sdxl", "--clip:x", "-x/y", str(tmp_path / "home"), "x" * 5000,
    ]:  # fmt: skip
        assert not studio.is_model_allowed(name), ascii(name)


def test_a_model_in_the_visitors_folder_must_not_link_out_of_it(workspace, tmp_path):
    (workspace.folder / "merged").mkdir()
    (workspace.folder / "merged" / "mug").symlink_to(tmp_path / "server")
    (workspace.folder / "merged" / "own").mkdir()
    for flag in ("--model", "--clip"):
        check_arguments(workspace, [*NEEDED, flag, "merged/own"], lambda _: True)
        assert "your own" in refused(workspace, flag, "merged/mug")
    with pytest.raises(StudioError, match="your own"):
        workspace.check_model("local-dir:merged/mug")


def test_a_job_is_confined_to_the_folder_that_it_runs_in(workspace, tmp_path, monkeypatch):
    code = f"import os; print(os.environ[{CONFINED!r}])"
    jobs = Jobs(tmp_path / "home")
    with pytest.raises(StudioError, match="null bytes"):
        jobs.submit(workspace, "train", "mug", [sys.executable, "a\0b"], "x")
    job = jobs.submit(workspace, "train", "mug", [sys.executable, "-S", "-c", code], "x")
    while jobs.state(job) not in ("finished", "failed"):
        jobs.tick()
    log = (tmp_path / "home" / "jobs" / job.id / "output.log").read_text(encoding="utf-8").strip()
    assert log.split(os.pathsep) == [str(workspace.folder), str(tmp_path / "home" / "measures")]
    # Photos that were checked, and exchanged for a link while the job waited.
    monkeypatch.setenv(CONFINED, log)
    monkeypatch.chdir(workspace.folder)
    (workspace.photos / "late").symlink_to(tmp_path / "server" / "x")
    for words in (
        ("--instance-dir", "photos/late"),
        ("--instance-dir", "~/x"),
        ("--instance-dir", str(tmp_path / "server" / "x")),
        ("--class-dir", "photos/late"),
        ("--preflight-out", str(tmp_path / "x.json")),
        ("--output-dir", "../x"),
        ("--config", "photos/late/config.toml"),
    ):
        outcome = run_trainer(*NEEDED, *words)
        assert outcome.status == 2 and outcome.errors[0].startswith(f"error: {words[0]}"), words
    assert sorted(path.name for path in workspace.runs.iterdir()) == []
    # What a job of the studio's own does is none of these.
    figures = str(tmp_path / "home" / "measures" / "x.json")
    words = [*NEEDED, "--preflight", "--preflight-out", figures]
    assert parse_options(words).preflight_out == Path(figures)
