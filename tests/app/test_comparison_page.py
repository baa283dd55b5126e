"""The Compare tab's request and HTML: columns and prompts are right, and texts are inert."""

import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image
from support.tiny import tiny_adapter

from nora_studio.app.pages.comparison_request import ComparisonFields, request_of
from nora_studio.app.pages.comparison_view import image_job_view
from nora_studio.app.pages.escaping import escaped
from nora_studio.app.server.image_jobs import new_image_job
from nora_studio.app.server.usable_adapters import (
    column_labels,
    find_usable_adapters,
    spaced_checkpoints,
)
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run

NASTY = "<img src=x onerror=alert(1)> \"'{{lookup}} ${props.value} a [V] mug"


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path, "a" * 32)


@pytest.fixture
def adapters(workspace, tiny_pipe):
    for method in ("nora", "lora"):
        run = Run.create(workspace.runs / f"mug-{method}", "steps = 40\n")
        tiny_adapter(run.adapter, tiny_pipe, method)
        for step in range(1, 8):
            shutil.copytree(run.adapter, run.folder / "checkpoints" / f"step-{step:06d}")
    return find_usable_adapters(workspace)


@pytest.fixture
def fields(adapters) -> ComparisonFields:
    return ComparisonFields(
        layout="columns", adapters=adapters, strengths=[1.0, 0.5], together=False,
        prompts="a [V] mug\n\n a [V] mug in the snow \na [V] mug", seed=3, seeds=2, steps=4,
        guidance=2.0, size=None, negative=" ", sweep="0.5, 1", score=True, references=(),
    )  # fmt: skip


def test_runs_and_files_are_usable_and_damaged_ones_are_left_out(workspace, adapters, tiny_pipe):
    assert {one.path for one in adapters} == {"runs/mug-nora", "runs/mug-lora"}
    assert sorted(column_labels(adapters)) == ["LoRA", "NoRA"]
    assert column_labels([adapters[0]] * 2) == [adapters[0].name] * 2
    assert adapters[0].subject == "[V] mug"
    own = adapters[0]
    assert own.checkpoints[own.card.steps] == own.path
    assert len(spaced_checkpoints(own)) == 5
    assert list(spaced_checkpoints(own))[-1] == own.card.steps
    (workspace.adapters / "broken.safetensors").write_bytes(b"no")
    assert len(find_usable_adapters(workspace)) == 2
    (workspace.runs / "mug-lora" / "adapter" / "card.json").write_text("{")
    assert [one.path for one in find_usable_adapters(workspace)] == ["runs/mug-nora"]


def test_errors_do_not_reveal_paths_of_the_server(workspace, fields):
    card = workspace.runs / "mug-lora" / "adapter" / "card.json"
    card.write_text("{")
    with pytest.raises(StudioError, match=r"^runs/mug-lora/adapter/card\.json is damaged"):
        new_image_job(workspace, *request_of(fields))


def test_side_by_side_asks_for_the_base_and_each_adapter_at_its_strength(workspace, fields):
    request, view = request_of(fields)
    first, second = column_labels(list(fields.adapters))
    assert [column["label"] for column in request["columns"]] == [
        "base", first, f"{second} × 0.5",
    ]  # fmt: skip
    assert request["prompts"] == ["a [V] mug", "a [V] mug in the snow"]
    assert (request["seeds"], request["negative"]) == ([3, 4], None)
    assert new_image_job(workspace, request, view).request.count == 12
    request, view = request_of(replace(fields, together=True))
    assert [use["strength"] for use in request["columns"][-1]["adapters"]] == [1.0, 0.5]
    assert len(view["kinds"]) == len(request["columns"]) == 4


def test_a_grid_has_a_row_for_each_checkpoint_and_a_column_for_each_strength(workspace, fields):
    request, view = request_of(replace(fields, layout="strengths"))
    sheet = new_image_job(workspace, request, view)
    assert len(view["rows"]) == 10
    assert len(sheet.request.columns) == 1 + 10 * 2
    assert (sheet.request.seeds, len(sheet.request.prompts)) == ((3,), 1)
    page = image_job_view(sheet, workspace)
    assert page.count("shot to-come") == 21
    for words in ("", "1, x", ",".join(map(str, range(9))), "nan", "inf", "99"):
        with pytest.raises(StudioError, match="strength"):
            bad, _ = request_of(replace(fields, layout="strengths", sweep=words))
            new_image_job(workspace, bad, view)


def test_prompts_by_seeds_is_a_table_for_each_adapter(workspace, fields):
    request, view = request_of(replace(fields, layout="seeds"))
    page = image_job_view(new_image_job(workspace, request, view), workspace)
    assert page.count('class="shots') == 2
    assert page.count("seed 4") >= 2


def test_a_missing_prompt_or_adapter_is_named_with_a_remedy(fields):
    with pytest.raises(StudioError, match="write a prompt"):
        request_of(replace(fields, prompts=" \n"))
    with pytest.raises(StudioError, match="choose an adapter"):
        request_of(replace(fields, layout="strengths", adapters=[]))


def test_words_of_visitors_are_inert_on_the_page(workspace, fields):
    request, view = request_of(replace(fields, prompts=NASTY))
    sheet = new_image_job(workspace, request, view)
    for place in ((0, 0, 0), (1, 0, 1)):
        file = sheet.folder(workspace) / f"{place[0]}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
        sheet = replace(sheet, files={**sheet.files, place: file.name}, error=NASTY)
    page = image_job_view(sheet, workspace)
    assert page.count("data-src") == 2
    assert "<img src=x" not in page and "{{" not in page and "${" not in page
    assert all("onerror" not in tag for tag in re.findall(r'<\w+(?: [\w-]+(?:="[^"]*")?)*>', page)
               if "onerror" in re.sub(r'"[^"]*"', "", tag))  # fmt: skip
    assert re.search(r'download="[^"<>]*"', page)
    assert "onerror=alert(1)&gt;" in escaped(NASTY)


def test_scores_are_under_their_images_and_differences_in_words(workspace, fields):
    request, view = request_of(replace(fields, prompts="a [V] mug", seeds=1))
    sheet = new_image_job(workspace, request, view)
    labels = [column.label for column in sheet.request.columns]
    files = {}
    for column in range(3):
        name = f"{column}.png"
        sheet.folder(workspace).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(sheet.folder(workspace) / name)
        files[column, 0, 0] = name
    finding = {
        "score": "CLIP-T", "first": labels[1], "second": "base", "mean": 0.1, "low": -0.02,
        "high": 0.2, "units": 6, "verdict": "no difference shown",
    }  # fmt: skip
    scores = {"CLIP-T": {label: [0.25 + n / 4] for n, label in enumerate(labels)}}
    done = replace(sheet, state="finished", files=files, scores=scores, differences=(finding,))
    page = image_job_view(done, workspace)
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    told = [re.search(r"prompt (0\.\d\d)", figure) for figure in figures]
    assert [found and found[1] for found in told] == ["0.25", "0.50", "0.75"]
    assert "−0.020 to +0.200" in page and "no difference shown" in page
    several = replace(done, request=replace(done.request, seeds=(0, 1)))
    covered = "over 2 seeds of one prompt. They cover prompts and seeds of one subject"
    assert covered in image_job_view(several, workspace)
