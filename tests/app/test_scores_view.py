"""Scores are worded no stronger than their intervals, and names are text."""

import re
import sys
import time
from pathlib import Path

import pytest

from nora_studio.app.pages.measurement_view import measurement_view
from nora_studio.app.pages.scores_view import scores_view
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.workspace import Workspace

TOO_FEW = "too few prompts to tell (4; at least 6 are needed)"


def kept(verdict: str, mean: float, low: float, high: float, pair=("NoRA", "LoRA")) -> dict:
    column = {"mean": 0.5, "per_prompt": {}, "pictures": []}
    return {
        "drawing": {"prompts": ["a", "b"]},
        "scores": {"CLIP-T": {"base": column, pair[0]: column, "LoRA": column}},
        "differences": [
            {"score": "CLIP-T", "first": pair[0], "second": pair[1], "mean": mean, "low": low,
             "high": high, "units": 6, "verdict": verdict},
        ],
    }  # fmt: skip


def sentences(page: str) -> list[str]:
    return [re.sub(r"<[^>]+>", "", item) for item in re.findall(r"<li>(.*?)</li>", page)]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (
            kept("NoRA higher than LoRA", 0.02, 0.01, 0.03),
            "Prompt: NoRA is ahead of LoRA by 0.020 (+0.010 to +0.030).",
        ),
        (
            kept("LoRA higher than NoRA", -0.02, -0.03, -0.01),
            "Prompt: LoRA is ahead of NoRA by 0.020 (−0.030 to −0.010).",
        ),
        (
            kept("no difference shown", 0.02, -0.01, 0.05),
            "Prompt: no difference shown between NoRA and LoRA (−0.010 to +0.050).",
        ),
        (
            kept(TOO_FEW, 0.02, 0.01, 0.03),
            f"Prompt: NoRA and LoRA cannot be distinguished yet: {TOO_FEW}.",
        ),
        (
            kept("NoRA higher than base", 0.02, 0.01, 0.03, ("NoRA", "base")),
            "Prompt: NoRA is ahead of Base by 0.020 (+0.010 to +0.030).",
        ),
    ],
)
def test_a_verdict_is_one_sentence_with_its_interval(result, told):
    assert sentences(scores_view(result)) == [told]


def test_the_page_says_what_its_intervals_cover():
    result = kept("no difference shown", 0.0, -0.0001, 1.0)
    assert "over 2 prompts. They cover prompts and seeds of one subject" in scores_view(result)
    assert "−0.000" not in scores_view(result)


def test_the_judge_is_named_next_to_the_scores():
    result = kept("no difference shown", 0.0, -1.0, 1.0)
    page = scores_view(result | {"clip": "ViT-B-32:<b>", "dino": None})
    assert "Judged by CLIP ViT-B-32:&lt;b&gt;." in page
    page = scores_view(result | {"clip": "embedded", "dino": "facebook/dino-vits16"})
    assert "Judged by CLIP embedded and DINO facebook/dino-vits16." in page


def test_names_are_text_never_markup():
    page = scores_view(kept("no difference shown", 0.0, -1.0, 1.0, ("<img src=x>", "LoRA")))
    assert "<img" not in page
    assert scores_view(None) == ""


def test_a_measurement_shows_its_progress_or_its_error(tmp_path):
    jobs, workspace = Jobs(tmp_path), Workspace.open(tmp_path, "0" * 32)
    waits = (
        "import time; from tqdm import tqdm; from nora_studio.runs.scripts import GENERATING; "
        "bar = tqdm(total=76, desc=GENERATING, unit='image'); bar.update(9); bar.refresh(); "
        "time.sleep(60)"
    )
    fails = "import sys; sys.exit('error: the photos are gone.')"
    pages = {}
    for name, code, words in (
        ("goes on", waits, "of 76"),
        ("fails", fails, "failed"),
        ("ends", "pass", ""),
    ):
        command = [sys.executable, "-c", code]
        job = jobs.submit(workspace, "fidelity", name, command, "nora-studio fidelity <b>")
        until = time.monotonic() + 20
        while time.monotonic() < until:
            jobs.tick()
            pages[name] = measurement_view(job, jobs)
            if (words and words in pages[name]) or jobs.state(job) == "finished":
                break
            time.sleep(0.05)
        jobs.kill(job)
        pages[name] = pages[name] if words else measurement_view(job, jobs)
    assert "9 of 76 images" in pages["goes on"]
    assert "nora-studio fidelity &lt;b&gt;" in pages["goes on"]
    assert "failed: the photos are gone." in pages["fails"]
    assert pages["ends"] == ""


def test_no_selector_has_a_comma_in_brackets_which_gradio_cuts_it_at():
    folder = Path(scores_view.__code__.co_filename).parent
    sheets = {file.name: file.read_text(encoding="utf-8") for file in folder.glob("*.css")}
    assert "scores.css" in sheets
    for name, text in sheets.items():
        assert not re.findall(r":(?:has|not|is|where)\([^){]*,", text), name
