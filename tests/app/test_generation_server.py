"""The generation server takes request after request, keeps one base, and survives errors."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawing import told_by
from support.tiny import RARE_TOKEN, tiny_adapter, tiny_clip

from nora_studio.app.server.generation_server import GenerationServer, GenerationServerOptions
from nora_studio.app.server.image_requests import parse_request
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl
from nora_studio.sdxl.recipes import read_recipe

PROMPTS = ["a photo of a [V] mug", "a [V] mug on the beach"]


@pytest.fixture(scope="module")
def runs(tiny_base, tmp_path_factory) -> dict[str, Path]:
    top, pipe = tmp_path_factory.mktemp("runs"), load_sdxl(str(tiny_base))
    return {m: tiny_adapter(top / m / "adapter", pipe, m).parent for m in ("lora", "nora")}


@pytest.fixture
def request_of(tiny_base, runs):
    """A small request with the base and both adapters; changes over it."""

    def make(**changes) -> dict:
        columns = [{"label": "base"}]
        columns += [{"label": m, "adapters": [{"path": str(path)}]} for m, path in runs.items()]
        small = {"model": str(tiny_base), "columns": columns, "prompts": PROMPTS, "seeds": [0, 1]}
        return {**small, "steps": 1, "guidance": 2.0, **changes}

    return make


def test_every_image_is_reported_row_by_row_and_contains_its_recipe(request_of, tmp_path):
    asked = {"do": "draw", "id": "1", "folder": str(tmp_path / "out"), "request": request_of()}
    ready, started, *pictures, done = told_by([asked])
    assert (ready["event"], started["total"], done["event"]) == ("ready", 12, "done")
    places = [(p["prompt"], p["seed"], p["column"]) for p in pictures]
    assert places == sorted(places) and len(set(places)) == 12
    recipe = read_recipe(tmp_path / "out" / pictures[-1]["file"])
    assert (recipe.adapter, recipe.seed, recipe.trigger) == ("nora", 1, RARE_TOKEN)


def test_existing_images_of_this_or_another_job_are_reused(request_of, tmp_path):
    first = {"do": "draw", "id": "1", "folder": str(tmp_path / "a"), "request": request_of()}
    told_by([first])
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*.png")}
    longer = request_of(seeds=[0, 1, 2])
    lines = [
        first,
        {"do": "draw", "id": "2", "folder": str(tmp_path / "b"), "request": longer},
        {"do": "draw", "id": "3", "folder": str(tmp_path / "c"), "request": request_of(steps=2)},
    ]
    told_by(lines)
    assert times == {file: file.stat().st_mtime_ns for file in times}
    shared = {file.stat().st_ino for file in times}
    inodes = {
        name: {file.stat().st_ino for file in (tmp_path / name).rglob("*.png")} for name in "bc"
    }
    assert shared < inodes["b"] and len(inodes["b"]) == 18
    assert not shared & inodes["c"]


def test_a_cancel_takes_effect_between_images_and_other_jobs_continue(request_of, tmp_path):
    def cancel(server, event):
        if event["event"] == "picture" and event["id"] == "1":
            server.accept(json.dumps({"do": "cancel", "id": "1"}))

    lines = [
        {"do": "draw", "id": name, "folder": str(tmp_path / name), "request": request_of()}
        for name in ("1", "2")
    ]
    told = told_by(lines, on_event=cancel)
    assert [event["event"] for event in told if event.get("id") == "1"] == [
        "started", "picture", "cancelled",
    ]  # fmt: skip
    assert len(list((tmp_path / "1").rglob("*.png"))) == 1
    assert told[-1] == {"event": "done", "id": "2"}


def test_a_late_cancel_does_not_stop_the_resumed_job(request_of, tmp_path):
    one = {"do": "draw", "id": "1", "folder": str(tmp_path / "1"), "request": request_of()}
    told: list[dict] = []
    server = GenerationServer(told.append, GenerationServerOptions(finish=True), device="cpu")
    for line in ({"do": "cancel", "id": "1"}, one):
        server.accept(json.dumps(line))
    server.listen([])
    server.serve()
    assert told[-1] == {"event": "done", "id": "1"}


def test_no_request_ends_it_and_each_error_is_one_line(request_of, runs, tmp_path):
    bad = [
        "no json",
        [],
        {"do": "draw"},
        {"do": "fly", "id": "1"},
        {"do": "draw", "id": "2", "request": {"prompts": ["x"]}},
        {"do": "draw", "id": "3", "request": request_of(model=str(tmp_path))},
        {"do": "draw", "id": "4", "request": request_of(size=36)},
        {"do": "draw", "id": "5", "request": request_of(guidance=1, negative="blur")},
        {"do": "draw", "id": "6", "request": request_of(
            score=True, clip="embedded", references=["nowhere.jpg"])},
        {"do": "read", "id": "7", "prompt": 3},
        {"do": "read", "id": "8", "prompt": "a", "model": "nowhere"},
    ]  # fmt: skip
    for line in bad[5:9]:
        line["folder"] = str(tmp_path / "out")
    good = {"do": "draw", "id": "9", "folder": str(tmp_path / "out"), "request": request_of()}
    told = told_by([*bad, good])
    errors = [event for event in told if event["event"] == "error"]
    assert len(errors) == len(bad)
    assert all("\n" not in event["error"] and len(event["error"]) < 500 for event in errors)
    assert [event["id"] for event in errors if event["id"]] == list("17823456")
    assert told[-1] == {"event": "done", "id": "9"}


def test_finished_jobs_are_scored_pair_by_pair(request_of, tmp_path):
    photo = tmp_path / "photo.png"
    levels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(levels).save(photo)
    asked = request_of(score=True, references=[str(photo)])
    lines = [{"do": "draw", "id": "1", "folder": str(tmp_path / "out"), "request": asked}]
    clip = str(tiny_clip(tmp_path / "clip"))
    *_, scores, done = told_by(lines, clip)
    assert done["event"] == "done"
    assert set(scores["scores"]) == {"CLIP-T", "CLIP-I"}
    assert {label: len(v) for label, v in scores["scores"]["CLIP-T"].items()} == {
        "base": 4, "lora": 4, "nora": 4,
    }  # fmt: skip
    assert len(scores["differences"]) == 6
    assert all(d["low"] <= d["mean"] <= d["high"] for d in scores["differences"])
    assert scores["judge"] == clip


def test_without_a_judge_for_the_base_images_are_generated_and_the_reason_is_given(
    request_of, tmp_path
):
    asked = request_of(score=True, prompts=PROMPTS[:1], seeds=[0])
    clips = [str(tiny_clip(tmp_path / f"clip-{seed}", seed)) for seed in (0, 1)]
    lines = [
        {"do": "draw", "id": str(number), "folder": str(tmp_path / "out"), "request": request}
        for number, request in enumerate([asked, *({**asked, "clip": clip} for clip in clips)])
    ]
    told = told_by(lines)
    (unscored,) = [event for event in told if event["event"] == "unscored"]
    assert unscored["id"] == "0"
    assert "another base" in unscored["reason"] and "--clip" in unscored["reason"]
    assert [event["event"] for event in told if event.get("id") == "0"] == [
        "started", "unscored", *["picture"] * 3, "done",
    ]  # fmt: skip
    scores = [event for event in told if event["event"] == "scores"]
    assert [(event["id"], event["judge"]) for event in scores] == [("1", clips[0]), ("2", clips[1])]
    assert scores[0]["scores"] != scores[1]["scores"]


def test_the_base_uses_a_rare_word_and_both_tokenizers_report_their_tokens(tiny_base, tmp_path):
    columns = [{"label": "base"}, {"label": "word", "rare_word": RARE_TOKEN}]
    asked = {"model": str(tiny_base), "columns": columns, "prompts": PROMPTS[:1], "steps": 1}
    lines = [
        {"do": "draw", "id": "1", "folder": str(tmp_path / "out"), "request": asked},
        {"do": "read", "id": "2", "prompt": PROMPTS[0], "model": str(tiny_base),
         "rare_word": RARE_TOKEN},
        {"do": "read", "id": "3", "prompt": PROMPTS[0], "model": str(tiny_base),
         "rare_word": "xyzzy"},
    ]  # fmt: skip
    told = told_by(lines)
    reading = next(event for event in told if event["event"] == "reading")
    assert reading["text"] == f"a photo of a {RARE_TOKEN} mug"
    assert [reader["name"] for reader in reading["encoders"]] == ["tokenizer", "tokenizer_2"]
    for reader in reading["encoders"]:
        assert [token["text"] for token in reader["tokens"]] == reading["text"].split()
        assert all(token["ends_word"] for token in reader["tokens"])
        assert reader["limit"] == 75
    (refused,) = [event for event in told if event["event"] == "error"]
    assert "one token" in refused["error"]
    bare, word = [tmp_path / "out" / e["file"] for e in told if e["event"] == "picture"]
    assert (read_recipe(bare).trigger, read_recipe(word).trigger) == (None, RARE_TOKEN)
    assert bare.read_bytes() != word.read_bytes()


@pytest.mark.slow
def test_the_command_ends_with_its_input_in_the_middle_of_a_job(request_of, tmp_path):
    many = request_of(seeds=list(range(40)))
    line = {"do": "draw", "id": "1", "folder": str(tmp_path / "out"), "request": many}
    process = subprocess.Popen(
        [sys.executable, "-m", "nora_studio.cli", "draw-server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdin and process.stdout
    deadline = threading.Timer(120, process.kill)
    deadline.start()
    process.stdin.write(json.dumps(line) + "\n")
    process.stdin.flush()
    events = []
    for text in process.stdout:
        events.append(json.loads(text))
        if events[-1]["event"] == "picture" and not process.stdin.closed:
            process.stdin.close()
    assert process.wait() == 0
    deadline.cancel()
    assert events[-1] == {"event": "cancelled", "id": "1"}
    assert len(list((tmp_path / "out").rglob("*.png"))) < 240


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"columns": []}, "columns"),
        ({"columns": [{"label": "a"}, {"label": "a"}]}, "label"),
        ({"columns": [{"label": "a", "adapters": [{"path": "x", "strength": "1"}]}]}, "strength"),
        ({"columns": [{"label": "a", "adapters": [{"path": "x", "strength": 1e9}]}]}, "strength"),
        ({"columns": [{"name": "a"}]}, "column"),
        ({"prompts": ["a", "a"]}, "more than once"),
        ({"prompts": [" "]}, "prompts"),
        ({"seeds": [-2]}, "seeds"),
        ({"seeds": [0.5]}, "seeds"),
        ({"seeds": 3}, "seeds"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"precision": "int8"}, "precision"),
        ({"prompt": "a"}, "the request: there is no 'prompt'; expected columns, prompts, seeds"),
        ({"a\nb": 1}, r"there is no 'a\\nb'"),
        ({"score": 1}, "score: expected true or false; got 1"),
        ({"steps": 10**400}, r"steps: expected at most 1000; got 1000+\.\.\.0+\."),
        ({"steps": 1.5}, "steps: expected a whole number; got 1.5"),
        ({"size": True}, "size: expected a whole number; got True"),
        ({"negative": "x" * 20_001}, "negative: expected at most 20,000 characters; got 'xxx"),
        ({"precision": [[[[[[[[]]]]]]]]}, r"precision: expected 'auto', .*; got \[\[.*\.\.\."),
        ({"columns": [{"label": "a"}, "b"]}, "columns.1: expected a table; got 'b'"),
        (
            {"columns": [{"label": "a", "adapters": [{"path": "x", "strength": True}]}]},
            "columns.0.adapters.0.strength: expected a number; got True",
        ),
    ],
)
def test_a_malformed_request_is_refused_with_the_place_named(change, word):
    good = {"columns": [{"label": "base"}], "prompts": ["a"]}
    assert parse_request(parse_request(good).as_json()) == parse_request(good)
    with pytest.raises(StudioError, match=word) as refused:
        parse_request({**good, **change})
    assert "\n" not in str(refused.value)


def test_a_whole_number_may_be_a_float_without_a_fraction():
    good = {"columns": [{"label": " base ", "adapters": None}], "prompts": ["a"]}
    request = parse_request({**good, "steps": 25.0, "guidance": 3, "model": "", "size": None})
    assert (request.steps, type(request.steps), request.guidance) == (25, int, 3.0)
    assert (request.model, request.size, request.columns[0].label) == (None, None, "base")
