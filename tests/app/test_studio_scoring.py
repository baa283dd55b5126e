"""The Scores page's commands stay within the visitor's folder, and their results are read back."""

import time
from dataclasses import replace

import gradio as gr
import pytest
from support.tiny import tiny_clip
from support.visiting import pressed, request_of

from nora_studio.app.pages.scores import _Handlers
from nora_studio.app.server.job import ENDED
from nora_studio.app.server.scoring import (
    ScoreRequest,
    arguments,
    fidelity_of,
    find_job,
    measurable_runs,
    results_folder,
    submit,
)
from nora_studio.app.server.usable_adapters import usable_adapters_with
from nora_studio.errors import StudioError

BOTH = ("mug-nora", "mug-lora")


def test_the_command_names_everything_by_paths_within_the_folder(workspace):
    asked = ScoreRequest(BOTH, prompts=("a [V] mug in the snow",), seeds=2, checkpoints=1)
    words = arguments(workspace, asked, "fidelity")
    assert words[:5] == [
        "--adapters",
        "runs/mug-nora",
        "runs/mug-lora",
        "--references",
        "photos/mug",
    ]
    assert words[words.index("--seeds") + 1 :][:2] == ["0", "1"]
    assert str(workspace.folder) not in " ".join(words)
    assert words[words.index("--out") + 1].startswith("scores/")


def test_without_prompts_scores_use_enough_places_for_a_verdict(workspace):
    words = arguments(workspace, ScoreRequest(BOTH), "score")
    prompts = words[words.index("--prompts") + 1 : words.index("--seeds")]
    assert len(prompts) == 6
    assert all(prompt.startswith("a photo of a [V] mug ") for prompt in prompts)


def test_results_of_the_same_runs_share_a_folder_in_any_order(workspace):
    folder = results_folder(workspace, BOTH, "fidelity")
    assert folder == results_folder(workspace, BOTH[::-1], "fidelity")
    others = {results_folder(workspace, runs, "fidelity") for runs in (BOTH, BOTH[:1], BOTH[1:])}
    assert len(others) == 3
    long = tuple(f"{'long-' * 9}{n}" for n in range(3))
    assert results_folder(workspace, long, "score").is_relative_to(workspace.folder / "scores")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": ()}, "choose 1 to 4"),
        ({"runs": ("mug-nora", "mug-nora")}, "runs, each once"),
        ({"runs": ("../mug-nora",)}, "expected a name"),
        ({"runs": ("mug-dora",)}, "no run 'mug-dora'"),
        ({"prompts": ("--out=elsewhere",)}, "does not begin with -"),
        ({"prompts": ("/etc/hosts.TXT",)}, "does not begin with -"),
        ({"prompts": ("scenes.json",)}, "does not begin with -"),
        ({"prompts": ("a mug",) * 2}, "twice"),
        ({"prompts": tuple(f"mug {n}" for n in range(99))}, "24 prompts"),
        ({"prompts": ("a" * 301,)}, "at most 300 characters in a prompt; got 301"),
        ({"seeds": 0}, "images of each"),
        ({"seeds": 10**9}, "images of each"),
        ({"strengths": ()}, "strengths"),
        ({"strengths": (float("nan"),)}, "strengths"),
        ({"strengths": (99.0,)}, "strengths"),
        ({"checkpoints": 99}, "checkpoints"),
        ({"dino": "--clip"}, "expected a Hub name"),
        ({"dino": "../../dino/x"}, "expected a Hub name"),
        ({"dino": "embedded"}, "expected a Hub name"),
        ({"clip": "--dino"}, "--clip: expected 'embedded', or a Hub name"),
        ({"clip": "../../clip/x"}, "--clip: expected 'embedded', or a Hub name"),
        ({}, "another base.*--clip"),
    ],
)
def test_measurements_that_reach_outside_or_never_end_are_refused(
    studio, workspace, changes, words
):
    asked = replace(ScoreRequest(BOTH), **changes)
    with pytest.raises(StudioError, match=words) as refused:
        submit(studio.jobs, workspace, asked, "fidelity", studio.models)
    assert str(workspace.folder) not in str(refused.value)
    assert studio.jobs.list_jobs(workspace) == []


def test_missing_and_foreign_photos_are_refused(workspace):
    config = workspace.runs / "mug-nora" / "config.toml"
    kept = config.read_text("utf-8")
    for elsewhere in ("/etc", "../..", "runs", "photos/gone"):
        config.write_text(kept.replace("photos/mug", elsewhere), "utf-8")
        with pytest.raises(StudioError, match="photos"):
            arguments(workspace, ScoreRequest(("mug-nora",)), "fidelity")
    config.write_text(kept.replace("photos/mug", "photos/other"), "utf-8")
    with pytest.raises(StudioError, match="different photos"):
        arguments(workspace, ScoreRequest(BOTH), "fidelity")
    config.write_text("[", "utf-8")
    with pytest.raises(StudioError, match="damaged") as refused:
        arguments(workspace, ScoreRequest(("mug-nora",)), "fidelity")
    assert str(workspace.folder) not in str(refused.value)


def test_a_run_without_an_adapter_yet_is_not_offered(workspace):
    empty = workspace.runs / "new-nora"
    empty.mkdir()
    (empty / "config.toml").write_text("steps = 10\n")
    assert {run.folder.name for run in measurable_runs(workspace)} == set(BOTH)


def test_anothers_runs_cannot_be_measured_nor_their_results_read(studio, workspace):
    other = request_of(studio, "y")
    room = _Handlers(studio)
    with pytest.raises(gr.Error, match="no run"):
        room.find_best(list(BOTH), "", 1, ["1"], 0, "", "", other)
    chosen, *_ = room.refresh(list(BOTH), None, {}, other)
    assert chosen["choices"] == []
    with pytest.raises(gr.Error, match="no longer exists"):
        room.on_press(list(BOTH), pressed(act="point", point="0"), other)


def test_another_base_is_measured_by_a_named_judge_only(studio, workspace, request_, tmp_path):
    room, clip = _Handlers(studio), str(tiny_clip(tmp_path / "clip"))
    for start in (
        lambda clip: room.find_best(list(BOTH), "", 1, ["1"], 0, "", clip, request_),
        lambda clip: room.compare_final(list(BOTH), "", 1, "", clip, request_),
    ):
        before = len(studio.jobs.list_jobs(workspace))
        with pytest.raises(gr.Error, match=r"another base.*--clip"):
            start(" ")
        assert len(studio.jobs.list_jobs(workspace)) == before
        start(clip)
        job = studio.jobs.list_jobs(workspace)[-1]
        assert f"--clip {clip} " in job.shown


@pytest.mark.slow
def test_a_measurement_goes_from_the_button_to_the_plot_and_to_compare(
    studio, workspace, request_, tmp_path
):
    room = _Handlers(studio)
    _, progress, *_ = room.refresh([], None, {}, request_)
    assert "Which strength is best?" in progress
    clip, prompts = str(tiny_clip(tmp_path / "clip")), "a [V] mug\na [V] mug at sea"
    room.find_best(["mug-nora"], prompts, 1, ["0.5", "1"], 0, "", clip, request_)
    with pytest.raises(gr.Error, match="already"):
        room.find_best(["mug-nora"], "", 1, ["1"], 0, "", clip, request_)
    job = find_job(studio.jobs, workspace, ["mug-nora"], "fidelity")
    assert job is not None
    until = time.monotonic() + 200
    while studio.jobs.state(job) not in ENDED and time.monotonic() < until:
        studio.jobs.tick()
        time.sleep(0.1)
    assert studio.jobs.state(job) == "finished", studio.jobs.tail(job)
    result = fidelity_of(workspace, ["mug-nora"])
    assert result is not None
    assert result.is_whole
    _, _, advice, plot, panel, *_ = room.refresh(["mug-nora"], None, {}, request_)
    assert plot.count('data-act="point"') == 2
    assert "mug-nora" in advice and f"Judged by CLIP {clip}" in advice
    assert panel.count("<img") == 4
    assert all(name in panel for name in ("/files/scores/", "a [V] mug at sea"))
    shown = room.on_press(["mug-nora"], pressed(act="point", point="1"), request_)
    assert shown[0] == 1
    used = room.on_press(["mug-nora"], pressed(act="use", point="1"), request_)
    assert used[2:4] == (["runs/mug-nora"], [0.5])
    for point in ("2", "-1", "x", "", "9" * 50, "²"):
        with pytest.raises(gr.Error, match="no longer exists"):
            room.on_press(["mug-nora"], pressed(act="point", point=point), request_)


def test_values_of_the_wrong_type_from_the_api_are_refused(studio, workspace, request_):
    room = _Handlers(studio)
    for wrong in ({"seeds": None}, {"strengths": ["x"]}, {"checkpoints": "many"}):
        asked = {"seeds": 1, "strengths": ["1"], "checkpoints": 0} | wrong
        with pytest.raises(gr.Error, match="seeds, strengths and checkpoints as numbers"):
            room.find_best(list(BOTH), "", dino="", clip="", request=request_, **asked)


def test_unchanged_parts_are_not_sent_again(studio, workspace, request_):
    room = _Handlers(studio)
    *first, seen = room.refresh([], None, {}, request_)
    assert first[0]["value"] == ["mug-nora", "mug-lora"]
    *again, _ = room.refresh(["mug-nora", "mug-lora"], None, seen, request_)
    assert all(part == gr.skip() for part in again)


def test_compare_shows_a_checkpoint_that_is_handed_to_it(workspace):
    path = "runs/mug-nora/checkpoints/step-000004"
    assert path not in {one.path for one in usable_adapters_with(workspace, [])}
    found = {
        one.path: one for one in usable_adapters_with(workspace, [path, "runs/mug-nora", "nowhere"])
    }
    assert found[path].name == "mug-nora step 4"
    assert found[path].card.steps == 4
    assert len(found) == 3
