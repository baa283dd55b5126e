"""Every panel of the web app in a real browser: it opens, and its main button works."""

import ast
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.studio_site import Person, wait_until
from support.tiny import tiny_adapter

import nora_studio.app.pages
from nora_studio.app.pages.adapter_actions import base_named
from nora_studio.app.pages.number_field import NumberField
from nora_studio.app.pages.page import build_page
from nora_studio.app.server.draft_trash import last_trashed, restore_last
from nora_studio.app.server.drafts import DRAFT, use_example
from nora_studio.app.server.image_jobs import image_job_ids, restore_image_job, trash_image_job
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.run_history import delete_runs
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.cli import export
from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.runs.runs import Run
from nora_studio.runs.tensor_files import read_tensors, write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.sdxl.models import load_sdxl

playwright = pytest.importorskip("playwright.sync_api")
MUG, DOG = "sunrise-mug", "party-dog"
UI = Path(nora_studio.app.pages.__file__).parent


@pytest.fixture
def person(browser, site):
    """Somebody new on the page; whatever goes wrong in it fails."""
    somebody = Person(browser, site)
    somebody.page.locator(".example").first.wait_for()
    yield somebody
    somebody.leave()
    assert somebody.problems == []


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Three photos under names of a phone's."""
    found = sorted((embedded("subjects") / MUG / "photos").glob("*.jpg"))[:3]
    return [
        Path(shutil.copy(photo, tmp_path / f"IMG_{number:04}.jpg"))
        for number, photo in enumerate(found)
    ]


@pytest.fixture(scope="module")
def config(site) -> Any:
    """The page as Gradio sends it."""
    return build_page(site.studio).get_config_file()


def soon(page, selector: str, words: str) -> None:
    playwright.expect(page.locator(selector)).to_contain_text(words, timeout=30_000)


def test_no_optional_number_field_mounts_as_zero(config):
    numbers = [one["props"] for one in config["components"] if one["type"] == "number"]
    assert numbers, "the page still has numbers with a value"
    assert [one["label"] for one in numbers if one.get("value") is None] == []


def test_no_field_changes_its_choices_under_a_value(config):
    """Gradio refuses every request that carries a value which is no choice any more."""
    for one in config["components"]:
        is_filled_later = one["type"] == "dropdown" and len(one["props"]["choices"]) <= 1
        assert not is_filled_later or one["props"]["allow_custom_value"], one["props"]["label"]
    for file in UI.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called, named = ast.unparse(node.func), {word.arg for word in node.keywords}
                place = f"{file.name}:{node.lineno}"
                # Of whatever kind it is, the value that it has now may be none of the new ones.
                assert called != "gr.update" or "choices" not in named or "value" in named, place
                # Only whoever lays one out gives it a label, and there they stand first.
                assert called not in RADIOS or "choices" not in named, place
                assert called not in RADIOS or not node.args or "label" in named, place


RADIOS = ("gr.Radio", "gr.CheckboxGroup")


def test_no_error_covers_the_fields_that_it_is_about(config):
    kinds = {one["id"]: one["type"] for one in config["components"]}
    for one in config["dependencies"]:
        seen = [kinds[o] for o in one["outputs"] if kinds[o] not in ("state", "tabs", "timer")]
        if seen and not one["show_progress_on"]:
            assert one["show_progress"] == "hidden", (one["api_name"], seen)


def test_an_optional_number_is_read_or_refused_by_its_name():
    side = NumberField("Side", least=64, most=512, step=8)
    assert [side.read(value) for value in (None, "", " 128 ", 64)] == [None, None, 128, 64]
    for wrong in ("0", "1e3", "sixty", "65", "520", "٦٤"):
        with pytest.raises(StudioError, match="Side: expected a multiple of 8 from 64 to 512, or"):
            side.read(wrong)
    rate = NumberField("Rate", is_whole=False)
    assert rate.read("1e-4") == 1e-4
    for wrong in ("nan", "inf", "0,1"):
        with pytest.raises(StudioError, match="Rate: expected a number such as"):
            rate.read(wrong)


def test_a_bases_label_on_the_page_is_accepted_as_its_name():
    for words in ("Miniature, built in", "miniature, built in", "The embedded model", "embedded"):
        assert base_named(words) == "embedded"
    assert base_named(" owner/name ") == "owner/name" and base_named(None) == ""


def test_advanced_writes_changed_options_and_marks_invalid_numbers(person, page):
    person.use_example(MUG)
    wait_until(lambda: f"--name {MUG}" in person.command(), 30, "the command")
    plain = person.command()
    page.locator("#advanced button").first.click()
    page.get_by_role("tab", name="Optimizer").click()
    batch = page.get_by_label("Batch size").first
    assert batch.input_value() == ""
    batch.fill("2")
    wait_until(lambda: "--batch-size 2" in person.command(), 30, "the batch size")
    assert [flag for flag in person.command().split() if flag not in plain.split()] == [
        "--batch-size", "2",
    ]  # fmt: skip
    batch.fill("two")
    batch.blur()
    soon(page, "#train-need", "Batch size: expected a whole number, or an empty field; got 'two'")
    assert page.locator(".number-field.wrong").count() == 1 and person.command() == ""
    batch.fill("")
    wait_until(lambda: person.command() == plain, 30, "the command is as it was")
    assert page.locator(".number-field.wrong").count() == 0


@pytest.mark.parametrize("button", ["start", "measure"])
def test_start_and_measure_mark_the_empty_fields_that_they_need(person, page, button):
    person.press_until_answered(f"#train-{button}", "#train-note", "Add photos first")
    words = ("Write in a word or two", "Add photos first")

    def is_said() -> bool:  # A toast goes by itself: on a busy machine, before it is looked for.
        said = any(all(word in one for word in words) for one in person.toasts())
        return said or bool(page.locator(f"#train-{button}").click() or page.wait_for_timeout(3000))

    wait_until(is_said, 60, "a toast says both")
    # Nothing covers it.
    page.locator("#train-name input, #train-name textarea").click(timeout=5000)
    noun = page.locator("#train-class")
    playwright.expect(noun).to_have_class(re.compile("lacking"))
    after = "getComputedStyle(document.querySelector('#train-class'), '::after').content"
    assert "Write in a word or two" in page.evaluate(after)
    person.say("#train-class", "mug")
    assert page.evaluate(after) == "none"
    soon(page, "#train-need", "Add photos first")


def test_photos_and_an_example_never_mix_and_each_can_be_restored(person, page, photos):
    workspace, rows = person.workspace(), page.locator(".photo-row")
    page.locator("#train-drop input[type=file]").set_input_files(photos)
    rows.nth(2).wait_for()
    page.locator(f"[data-subject='{MUG}']").click()
    soon(page, "#train-question", "replaces your 3 photos")
    page.get_by_role("button", name="Keep my photos").click()
    playwright.expect(page.locator("#train-question [data-act]")).to_have_count(0)
    assert len(photos_of(workspace, DRAFT)) == 3
    page.locator(f"[data-subject='{MUG}']").click()
    page.get_by_role("button", name="Use the example").click()
    rows.nth(4).wait_for()
    page.get_by_role("button", name="Restore 3 photos").click()
    playwright.expect(rows).to_have_count(3)
    names = [photo.original for photo in photos_of(workspace, DRAFT)]
    assert names == [photo.name for photo in photos]
    page.get_by_label("Remove IMG_0001.jpg").click()
    playwright.expect(rows).to_have_count(2)
    page.get_by_role("button", name="Restore IMG_0001.jpg").click()
    playwright.expect(rows).to_have_count(3)


def test_photos_added_after_an_example_replace_its_photos_and_texts(person, page, photos):
    person.use_example(MUG)
    wait_until(lambda: f"--name {MUG}" in person.command(), 30, "the command")
    page.locator("#train-drop input[type=file]").set_input_files(photos)
    playwright.expect(page.locator(".photo-row")).to_have_count(3)
    soon(page, "#train-note", "5 photos were removed")
    wait_until(lambda: person.command() == "", 30, "the example's words are gone")
    assert page.locator("#train-class input, #train-class textarea").input_value() == ""


def test_each_refused_file_stays_listed_by_its_own_name(person, page, tmp_path):
    files = [tmp_path / f"holiday {number}.jpg" for number in range(7)]
    for file in files:
        file.write_bytes(b"no photo")
    page.locator("#train-drop input[type=file]").set_input_files(files)
    playwright.expect(page.locator(".upload-notes li")).to_have_count(7, timeout=30_000)
    for file in files:
        soon(page, ".upload-notes", file.name)
    page.get_by_role("button", name="Dismiss").click()
    playwright.expect(page.locator(".upload-notes li")).to_have_count(0)


def test_one_example_in_two_tabs_is_taken_once_by_each(person, page):
    workspace = person.workspace()
    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(lambda _: use_example(workspace, MUG).name, range(8)))
    assert taken == [MUG] * 8
    assert len(photos_of(workspace, DRAFT)) == 5
    assert last_trashed(workspace) == "5 photos"
    restore_last(workspace)
    assert len(photos_of(workspace, DRAFT)) == 5


@pytest.fixture
def adapter(person, tiny_base, tmp_path) -> str:
    """Add a LoRA file that does not name its base to the shelf."""
    made = tiny_adapter(tmp_path / "mug", load_sdxl(str(tiny_base)), "lora")
    plain = tmp_path / "plain.safetensors"
    export.run(export.Options(made, "kohya", plain, model=str(tiny_base)))
    place = person.workspace().adapters / "foreign.safetensors"
    words = {k: v for k, v in read_header(plain).metadata.items() if k != "nora_studio"}
    write_tensors(place, read_tensors(plain), words)
    return "adapters/foreign.safetensors"


def test_every_adapter_action_works_with_a_seed_file(person, page, adapter):
    person.turn_to("Adapters")
    page.locator(f".adapter-pick[data-adapter='{adapter}']").click()
    soon(page, "#adapters-command", "does not name its base. Choose one under Base")
    page.locator("#adapters-base input").fill("Miniature, built in")
    page.keyboard.press("Enter")
    soon(page, "#adapters-command", f"export {adapter} --to kohya")
    page.get_by_label("Seed file", exact=True).check()
    soon(page, "#adapters-command", "--to seed")
    for action, words in (
        ("Mix", "two adapters or more"),
        ("Merge", f"merge --adapters {adapter}"),
        ("Publish", "as owner/name"),
        ("Inspect", f"inspect {adapter}"),
        ("Export", "--to seed"),
    ):
        page.get_by_label(action, exact=True).check()
        soon(page, "#adapters-command", words)
    page.get_by_role("button", name="More").click()
    assert page.locator("#adapters-rank").locator("input, textarea").input_value() == ""
    page.get_by_label("ComfyUI, A1111, Forge").check()
    person.say("#adapters-rank", "2")
    soon(page, "#adapters-command", "--rank 2")
    person.say("#adapters-rank", "0")
    soon(page, "#adapters-command", "expected a whole number from 1 to")
    assert person.toasts() == []


def test_the_page_keeps_the_state_of_few_loads(site):
    """Gradio copies the page's whole configuration for each load, about a megabyte."""
    assert build_page(site.studio).state_session_capacity <= 64


def test_a_deleted_drawing_can_be_restored_until_the_next_is_deleted(tmp_path):
    workspace = Workspace.open(tmp_path, "a" * 32)
    for name in ("one", "two"):
        (workspace.pictures / name).mkdir()
        (workspace.pictures / name / "drawing.json").write_text("{}")
    trash_image_job(workspace, "one")
    assert image_job_ids(workspace) == ["two"]
    restore_image_job(workspace, "one")
    assert image_job_ids(workspace) == ["two", "one"]
    trash_image_job(workspace, "one")
    trash_image_job(workspace, "two")
    with pytest.raises(StudioError, match="can no longer be restored"):
        restore_image_job(workspace, "one")


def test_a_run_that_failed_at_once_offers_no_samples_and_no_resume(person, page):
    workspace, jobs = person.workspace(), person.site.studio.jobs
    code = "import sys; sys.exit('error: --unet.rank: nothing has so many.')"
    jobs.submit(workspace, "train", MUG, [sys.executable, "-c", code], "train", [f"{MUG}-nora"])
    person.turn_to("Watch")
    person.wait_for_state("Failed", "Interrupted")
    soon(page, "#watch-progress", "Nothing was saved to resume from")
    soon(page, "#watch-wall", "No images")
    playwright.expect(page.get_by_role("button", name="Resume")).to_be_disabled()


def test_a_run_that_is_being_measured_is_not_deleted(tmp_path):
    workspace, jobs = Workspace.open(tmp_path, "a" * 32), Jobs(tmp_path)
    Run.create(workspace.runs / "mug-nora", "steps = 1\n").set_status("finished", 1, 1)
    wait = [sys.executable, "-c", "import time; time.sleep(60)", "--adapters", "runs/mug-nora"]
    job = jobs.submit(workspace, "fidelity", "mug-nora", wait, "fidelity")
    try:
        with pytest.raises(StudioError, match="mug-nora is being measured"):
            delete_runs(workspace, jobs, ["mug-nora"])
    finally:
        jobs.stop(job)
