"""History shows every run, compares two, and can restore what it deletes."""

import json
import os
import re
import shutil
import sys

import gradio as gr
import pytest
from support.visiting import pressed, request_of

from nora_studio.app.pages.history import _Handlers, _option_meanings
from nora_studio.app.pages.watch import _views
from nora_studio.app.server.library import library
from nora_studio.app.server.run_history import (
    delete_for_good,
    delete_runs,
    deleted_runs,
    restore_run,
    run_rows,
)
from nora_studio.app.server.scoring import measurable_runs
from nora_studio.app.server.trainings import find_trainings, state_of
from nora_studio.app.server.usable_adapters import find_usable_adapters
from nora_studio.errors import StudioError

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def room(studio):
    return _Handlers(studio, _option_meanings())


def views(room, picked, request_, undone=(), log=False, smoothing=0.0):
    """The trash, the list, the charts and the detail, as they are sent first."""
    return room.refresh(list(picked), list(undone), log, smoothing, {}, request_)[:4]


def pretend(run, **status) -> None:
    file = run / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | status))


def test_every_run_has_a_row_with_its_latest_sample(room, workspace, request_):
    _, rows, *_ = views(room, [], request_)
    assert re.findall(r'data-run="([^"]+)"', rows) in (
        ["mug-nora", "mug-lora"],
        ["mug-lora", "mug-nora"],
    )
    assert rows.count("/samples/step-000006-01.png") == 2
    assert rows.count("6 of 6 steps") == 2
    assert rows.count(">Finished<") == 2


def test_one_run_shows_its_settings_with_their_meaning_its_curves_and_samples(
    room, workspace, request_
):
    _, _, charts, detail = views(room, ["mug-nora"], request_)
    assert "stroke:var(--nora)" in charts.split("</section>")[0]
    assert "unet: outer rank" in detail
    assert re.search(r'title="[^"]+">unet: outer rank', detail)
    assert "a photo of a [V] mug" in detail
    assert "base-01.png" in detail
    assert "step-000006-01.png" in detail


def test_two_runs_show_what_differs_and_both_curves_in_one_chart(room, workspace, request_):
    config = workspace.runs / "mug-lora" / "config.toml"
    config.write_text(config.read_text().replace("steps = 6\n", "steps = 12\n", 1))
    _, rows, charts, detail = views(room, ["mug-nora", "mug-lora"], request_)
    assert rows.count('aria-pressed="true"') == 2
    assert charts.split("</section>")[0].count('class="line"') == 2
    assert "stroke-dasharray" in charts.split("</section>")[0]
    assert "What differs" in detail
    table = detail.split("</table>")[0]
    assert re.search(r">steps</span></th><td>6</td><td>12</td>", table)
    assert ">nora</td><td>lora<" in table
    assert "a photo of a [V] mug" not in table  # The prompt is the same.
    assert "At step" in detail


def test_two_runs_of_one_method_differ_in_colour_and_dashes(room, workspace, request_):
    shutil.copytree(workspace.runs / "mug-nora", workspace.runs / "cup-nora")
    _, _, charts, detail = views(room, ["mug-nora", "cup-nora"], request_)
    assert "stroke:var(--nora)" in charts.split("</section>")[0]
    assert "stroke:var(--soft)" in charts.split("</section>")[0]
    assert "The same settings." in detail


def test_picking_keeps_the_last_two(room, workspace, request_):
    shutil.copytree(workspace.runs / "mug-nora", workspace.runs / "cup-nora")
    picked: list[str] = []
    for name in ("mug-nora", "mug-lora", "cup-nora"):
        picked, _ = room.on_press(picked, [], pressed(act="pick", run=name), request_)
    assert picked == ["mug-lora", "cup-nora"]
    picked, _ = room.on_press(picked, [], pressed(act="pick", run="mug-lora"), request_)
    assert picked == ["cup-nora"]
    with pytest.raises(gr.Error):
        room.on_press([], [], pressed(act="pick", run="../../x"), request_)


def test_undo_restores_a_deleted_run_completely(room, studio, workspace, request_):
    run = workspace.runs / "mug-nora"
    before = {file.relative_to(run): file.read_bytes() for file in run.rglob("*") if file.is_file()}
    picked, undone = room.delete(["mug-nora"], request_)
    assert (picked, undone) == ([], ["mug-nora"])
    assert not run.exists()
    trash, rows, *_ = views(room, picked, request_, undone)
    assert "mug-nora was deleted." in trash
    assert "Undo" in trash
    assert "mug-nora" not in rows
    room.on_press([], undone, pressed(act="restore", run="mug-nora"), request_)
    after = {file.relative_to(run): file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert after == before
    assert deleted_runs(workspace) == []


def test_a_run_in_training_or_in_the_queue_is_not_deleted_nor_others_with_it(studio, workspace):
    pretend(workspace.runs / "mug-nora", state="running", pid=os.getpid())
    with pytest.raises(StudioError, match="mug-nora is still training or queued") as refused:
        delete_runs(workspace, studio.jobs, ["mug-lora", "mug-nora"])
    assert str(workspace.folder) not in str(refused.value)
    pretend(workspace.runs / "mug-nora", state="finished")
    studio.jobs.submit(workspace, "train", "mug", SLEEP, "train", ["mug-nora"])
    with pytest.raises(StudioError, match="mug-nora is still training or queued"):
        delete_runs(workspace, studio.jobs, ["mug-lora", "mug-nora"])
    assert {past.name for past in run_rows(workspace)} == {"mug-nora", "mug-lora"}


def test_restoring_does_not_overwrite_a_newer_run(studio, workspace):
    delete_runs(workspace, studio.jobs, ["mug-nora"])
    shutil.copytree(workspace.runs / "mug-lora", workspace.runs / "mug-nora")
    with pytest.raises(StudioError, match="another run mug-nora"):
        restore_run(workspace, "mug-nora")
    assert deleted_runs(workspace) == ["mug-nora"]
    assert delete_for_good(workspace) == 1
    with pytest.raises(StudioError, match="no deleted run"):
        restore_run(workspace, "mug-dora")
    with pytest.raises(StudioError, match="expected a name"):
        restore_run(workspace, "../mug-nora")


def test_a_damaged_run_is_listed_and_can_be_deleted(room, studio, workspace, request_):
    (workspace.runs / "mug-nora" / "config.toml").write_text("[")
    _, rows, _, detail = views(room, ["mug-nora"], request_)
    assert ">Damaged<" in rows
    assert "Damaged: config.toml: " in detail
    assert str(workspace.folder) not in rows + detail
    assert delete_runs(workspace, studio.jobs, ["mug-nora"]) == ["mug-nora"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.toml", "steps = 'many'"),
        ("config.toml", "sample_prompts = 3"),
        ("status.json", '{"state": [], "step": "six", "steps": null, "time": "now", "error": 3}'),
        ("status.json", '{"state": "running", "pid": -1, "started": "x", "seconds_left": "soon"}'),
        ("photos.json", "[["),
        ("log.jsonl", '{"step": 2, "loss": "low", "sample_clip_i": []}\n{"step": "x"}\n'),
        ("log.jsonl", '{"step": 2, "loss": NaN, "fixed_loss": NaN}\n'),
    ],
)
def test_no_file_of_a_run_breaks_history_or_watch(room, studio, workspace, request_, file, content):
    (workspace.runs / "mug-nora" / file).write_text(content)
    _, rows, _, detail = views(room, ["mug-nora"], request_)
    assert 'data-run="mug-lora"' in rows
    if "NaN" not in content:
        assert f"Damaged: {file}: " in detail
    views(room, ["mug-nora", "mug-lora"], request_)
    for training in find_trainings(workspace, studio.jobs):
        state = state_of(training, studio.jobs)
        assert _views(studio, training, state, False, 0.0, workspace)
    assert library(workspace)
    assert find_usable_adapters(workspace)
    assert measurable_runs(workspace)


def test_another_visitors_runs_are_neither_shown_deleted_nor_restored(room, workspace, studio):
    other = request_of(studio, "y")
    assert "No runs yet" in views(room, [], other)[1]
    for act in (room.delete_run, room.restore_run):
        with pytest.raises(gr.Error):
            act("mug-nora", other)
    with pytest.raises(gr.Error):
        room.reuse(["mug-nora"], other)
    with pytest.raises(gr.Error):
        room.compare(["mug-nora"], other)
    assert {past.name for past in run_rows(workspace)} == {"mug-nora", "mug-lora"}


def test_settings_and_runs_are_handed_to_the_other_tabs(room, workspace, request_):
    assert room.reuse(["mug-nora"], request_)[0] == "mug-nora"
    paths, strengths, _ = room.compare(["mug-nora", "mug-lora"], request_)
    assert paths == ["runs/mug-nora", "runs/mug-lora"]
    assert strengths == []


def test_texts_by_visitors_are_shown_as_text(room, workspace, request_):
    config = workspace.runs / "mug-nora" / "config.toml"
    config.write_text(config.read_text().replace("[V] mug", "[V] <img src=x onerror=alert(1)>"))
    page = "".join(views(room, ["mug-nora", "mug-lora"], request_))
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror" in page


def test_unchanged_parts_are_not_sent_again(room, workspace, request_):
    *_, seen = room.refresh(["mug-nora"], [], False, 0.6, {}, request_)
    again = room.refresh(["mug-nora"], [], False, 0.6, seen, request_)
    assert all(part == gr.skip() for part in again[:7])
    changed = room.refresh(["mug-nora"], [], True, 0.6, seen, request_)
    assert changed[2] != gr.skip()
