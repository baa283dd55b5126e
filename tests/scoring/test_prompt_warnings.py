"""Warnings about words that are not read and about other programs' syntax."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from support.drawing import told_by
from support.places import TOP
from support.tiny import SIZE, tiny_adapter, tiny_clip
from support.tokens import adapter_with
from support.trainer import photo_set, tiny_options

from nora_studio.adapters.new_tokens import TOKENIZERS, NewTokens
from nora_studio.app.pages.comparison_view import image_job_view
from nora_studio.app.server.active_image_job import ActiveImageJob
from nora_studio.app.server.image_jobs import new_image_job, read_image_job
from nora_studio.photos.prompts import other_syntax
from nora_studio.scoring.compare import GenerationSettings, adapter_columns
from nora_studio.scoring.prompt_warnings import generation_warnings
from nora_studio.scoring.scores import load_scorer
from nora_studio.sdxl.models import load_sdxl
from nora_studio.tasks.dreambooth.settings import resolve

SCRIPTS = TOP / "evaluation"
LONG = "a photo of a [V] mug " + "on the beach " * 30 + "in the snow"
WEIGHED = "a photo of a (mug:1.4) on the [beach]"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a (red:1.4) [V] mug", ["(red:1.4)"]),
        ("a (very red : .8) mug, (blue:-1)", ["(very red : .8)", "(blue:-1)"]),
        ("a ((red)) mug", ["((red))"]),
        ("a [red] [v] mug [cat:dog:0.5]", ["[red]", "[cat:dog:0.5]"]),
        ("a mug BREAK a table", ["BREAK"]),
        ("a mug <lora:mug-nora:0.8> <LORA:b:1>", ["<lora:mug-nora:0.8>", "<LORA:b:1>"]),
        ("a {red|blue} mug", ["{red|blue}"]),
        ("a photo of [V] (my mug), at 10:30, a break in the rain", []),
        ("a photo of a [V] mug and another [v]", []),
        ("a <mug-1> <mug-2> on grass", []),
    ],
)
def test_other_programs_syntax_is_found_but_not_the_placeholder(prompt, found):
    assert other_syntax(prompt) == found


def check(lines: list[str], judge: bool = False) -> None:
    """A line for what is too long, one for the syntax, and of the judge one for its own end."""
    lines = [line for line in lines if line.startswith("warning: ")]
    assert len(lines) == 3 if judge else 2, lines
    assert " is too long; '" in lines[0] and "in the snow' is not read" in lines[0]
    assert f"the prompt {LONG[:60].rstrip() + '...'!r} is too long" in lines[0]
    assert f"the prompt {WEIGHED!r}: (mug:1.4), [beach] is" in lines[1]
    assert "as plain text" in lines[1] and "Adapters" not in lines[1]
    assert not judge or ("CLIP" in lines[2] and "in the snow'" in lines[2])


@pytest.fixture(scope="module")
def adapter(tiny_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mug-lora" / "adapter"
    return tiny_adapter(folder, load_sdxl(str(tiny_base)), "lora")


@pytest.mark.parametrize("word", ["generate", "compare"])
def test_generate_and_compare_warn_once_for_all_columns(
    command, tiny_base, adapter, tmp_path, word
):
    words = ["--adapters", adapter, "--prompts", LONG, WEIGHED, "--model", tiny_base]
    strengths = ["--strengths", "0.5", "1", "--out", tmp_path / "out", "--steps", "1"]
    status, _, err = command(word, *words, *strengths, "--guidance", "1")
    assert status == 0, err
    check(err.splitlines())


@pytest.mark.parametrize("script", ["clip_score.py", "fidelity.py"])
def test_scoring_scripts_warn_for_the_base_and_for_the_judge(
    script, tiny_base, adapter, photo_folder, tmp_path, monkeypatch, capfd
):
    words = ["--adapters", adapter, "--prompts", LONG, WEIGHED, "--model", tiny_base]
    words += ["--references", photo_folder, "--seeds", 0, "--steps", 1, "--guidance", 1]
    words += ["--clip", tiny_clip(tmp_path / "clip"), "--out", tmp_path / "out"]
    words += ["--strengths", 1] if script == "fidelity.py" else []
    monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    assert end.value.code == 0
    check(capfd.readouterr().err.splitlines(), judge=True)


def test_the_drawing_server_sends_warnings_and_the_page_shows_them(
    tiny_base, photo_folder, workspace, tmp_path
):
    request = {
        "model": str(tiny_base), "columns": [{"label": "base"}], "prompts": [LONG, WEIGHED],
        "negative": "(blurry:2)", "steps": 1, "guidance": 2.0, "score": True,
        "references": [str(file) for file in photo_folder.iterdir()],
    }  # fmt: skip
    asked = {"do": "draw", "id": "1", "folder": str(tmp_path / "out"), "request": request}
    _, started, *_, scores, done = told_by([asked], clip=str(tiny_clip(tmp_path / "clip")))
    assert done["event"] == "done"
    assert "the negative prompt: (blurry:2) is" in started["warnings"][-1]
    check([*started["warnings"][:-1], *scores["warnings"]], judge=True)
    job = new_image_job(workspace, request | {"references": []})
    active = ActiveImageJob(workspace, job)
    active.save()
    for event in (started, started, scores):
        active.add_warnings(event["warnings"])
    kept = read_image_job(workspace, job.id)
    assert len(kept.warnings) == 4 and kept.warnings[0].startswith("The prompt 'a photo")
    assert "(mug:1.4), [beach] is the syntax of other programs" in image_job_view(kept, workspace)
    file = kept.folder(workspace) / "drawing.json"
    values = json.loads(file.read_text("utf-8"))
    del values["warnings"]  # As earlier versions wrote it.
    file.write_text(json.dumps(values), "utf-8")
    assert read_image_job(workspace, job.id).warnings == ()


def test_training_warns_about_captions_and_all_prompts(
    tiny_base, tiny_pipe, photo_folder, tmp_path
):
    samples = (LONG + " at night", "a [V] mug BREAK")
    options = tiny_options(tiny_base, photo_folder, tmp_path, prompt=LONG, sample_prompts=samples)
    long, long_sample, syntax = photo_set(options).prompt_warnings(
        tiny_pipe, "sks", resolve(options)
    )
    assert long.startswith("warning: --prompt is too long; 'on the")
    assert long_sample.startswith("warning: --sample-prompts") and "at night'" in long_sample
    assert (
        syntax.startswith("warning: --sample-prompts")
        and ": BREAK is the syntax of other" in syntax
    )


def test_new_tokens_count_as_one_word_each(tiny_base, tiny_pipe, tmp_path):
    words = tuple(f"<mug-{number}>" for number in range(1, 9))
    rows = {
        part: getattr(tiny_pipe, part).get_input_embeddings().weight[:8].detach().float()
        for part in TOKENIZERS
    }
    adapter = adapter_with(tmp_path / "a" / "adapter", tiny_base, NewTokens(words, rows))
    fits = "a [V] " + "mug " * 66
    for prompt, count in ((fits, 0), (f"{fits}beach", 1)):
        drawing = GenerationSettings("tiny", (prompt,), (0,), 1, 1.0, SIZE)
        lines = generation_warnings(tiny_pipe, adapter_columns([adapter]), drawing)
        assert len(lines) == count and all("'beach' is not read" in line for line in lines)
    assert "<mug-1>" not in tiny_pipe.tokenizer.get_vocab()


def test_the_embedded_judge_reports_the_words_it_does_not_read():
    scorer = load_scorer()
    assert scorer.unread_words("a photo of a mug on the beach") == ""
    assert scorer.unread_words("") == ""
    words = [*["mug"] * 46, "beach", "snow"]  # Its context is 48 pieces, two of them marks.
    assert scorer.unread_words(" ".join(words)) == "beach snow"
