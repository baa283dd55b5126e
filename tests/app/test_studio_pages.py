"""The web app in a real browser: upload, train, stop, resume and compare."""

import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image
from support.studio_site import Person, Site, wait_until

from nora_studio.mini.assets import embedded
from nora_studio.sdxl.models import load_sdxl
from nora_studio.sdxl.recipes import read_recipe

SUBJECT = "sunrise-mug"
SHORT = "--steps 4 --sample-every 2 --checkpoint-every 2 --sample-steps 2 --log-every 1"
LONG_RUN = "--steps 3000 --sample-every 0 --checkpoint-every 500 --sample-steps 1 --log-every 1"
SMALL = "--text-encoder.no-train --text-encoder-2.no-train --unet.rank 2 --evaluate-every 0"


@pytest.fixture
def person(browser, site):
    somebody = Person(browser, site)
    yield somebody
    somebody.leave()
    site.end_jobs()


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Five photos under names of a phone's."""
    found = sorted((embedded("subjects") / SUBJECT / "photos").glob("*.jpg"))
    return [
        Path(shutil.copy(photo, tmp_path / f"IMG_{number:04}.jpg"))
        for number, photo in enumerate(found)
    ]


@pytest.mark.timeout(900)
def test_dropped_photos_become_a_finished_comparison(person, photos, tmp_path):
    page = person.page
    page.locator("#train-drop input[type=file]").set_input_files(photos)
    page.locator(".photo-row").nth(4).wait_for()
    person.say("#train-name", "My Mug!")
    person.say("#train-class", "mug")
    page.locator("[data-act=caption]").first.fill("a photo of a [V] mug on a wooden table")
    page.locator("[data-act=caption]").first.blur()
    wait_until(lambda: "--name my-mug" in person.command(), 30, "the command says the name")
    person.add_flags(f"{SHORT} {SMALL}")
    person.start()
    assert person.wait_for_state("Finished", "Failed", "Interrupted") == "Finished"
    workspace = person.workspace()
    assert (
        (workspace.photos / "my-mug" / "01.txt").read_text().startswith("a photo of a [V] mug on")
    )
    assert page.locator("#watch-wall img").count() >= 5  # the base, and two methods at two steps
    page.get_by_role("button", name="Compare", exact=True).click()
    wait_until(lambda: page.locator("#compare-prompts textarea").is_visible(), 30, "Compare")
    person.say("#compare-prompts", "a photo of a [V] mug in the snow")
    page.locator("#compare-draw").click()
    pictures = page.locator("#compare-sheet img")
    wait_until(lambda: pictures.count() >= 3, 240, "three pictures are drawn")
    drawn = sorted(workspace.pictures.rglob("*.png"))
    recipes = [read_recipe(file) for file in drawn]
    assert {recipe.method for recipe in recipes} == {None, "nora", "lora"}
    assert len({recipe.seed for recipe in recipes}) == 1
    assert person.problems == []


def test_a_reload_and_a_second_tab_find_everything_again(person):
    person.use_example(SUBJECT)
    wait_until(lambda: f"--name {SUBJECT}" in person.command(), 30, "the command")
    person.add_flags(f"{LONG_RUN} {SMALL}")
    person.start()
    person.wait_for_state("Training", "Waiting")
    person.page.reload()
    person.page.get_by_role("tab", name="Train").wait_for()
    person.page.locator(".photo-row").nth(4).wait_for()
    wait_until(lambda: "mug" in person.command(), 30, "the form is as it was")
    person.turn_to("Watch")
    person.wait_for_state("Training", "Waiting")
    second = person.tab()
    second.get_by_role("tab", name="Watch").click()
    second.locator("#watch-progress .progress").wait_for()
    assert SUBJECT in second.locator("#watch-progress").inner_text()


def test_a_tab_opened_while_the_page_loads_is_the_one_kept_up_to_date(person):
    page, held, sent = person.page, [], []

    def hold(route, request) -> None:
        if held is not None and '"value":"Train"' in (request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    person.use_example(SUBJECT)
    wait_until(lambda: f"--name {SUBJECT}" in person.command(), 30, "the command")
    page.route("**/run/predict", hold)
    page.reload()
    page.get_by_role("tab", name="History").click()
    wait_until(lambda: page.wait_for_timeout(100) or held, 30, "the first tab's event is sent")
    late, held = held, None
    for route in late:
        route.continue_()
    page.wait_for_timeout(1500)
    page.on("request", lambda request: sent.append(request.post_data or ""))
    page.wait_for_timeout(4500)
    assert len(sent) >= 2, "the open tab asks for news"
    assert not [data for data in sent if "nora-studio train" in data], "and the first does not"


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_a_training_stops_saves_resumes_and_outlives_the_server(person):
    site, page = person.site, person.page
    person.use_example(SUBJECT)
    wait_until(lambda: f"--name {SUBJECT}" in person.command(), 30, "the command")
    person.add_flags(f"{LONG_RUN} {SMALL} --method nora")
    person.start()
    progress = page.locator("#watch-progress .progress-head b")
    wait_until(lambda: not progress.inner_text().startswith("0 "), what="a step is done")
    page.get_by_role("button", name="Stop and save").click()
    person.wait_for_state("Stopped")
    stopped_at = int(progress.inner_text().split()[0].replace(",", ""))
    page.get_by_role("button", name="Resume").click()
    person.wait_for_state("Training")
    wait_until(
        lambda: int(progress.inner_text().split()[0].replace(",", "")) > stopped_at,
        what="it goes on after where it stopped",
    )
    site.close()
    reopened = Site(site.home, site.port)
    try:
        page.reload()
        page.get_by_role("tab", name="Watch").click()
        person.wait_for_state("Training")
        before = progress.inner_text()
        wait_until(lambda: progress.inner_text() != before, what="the old training still moves")
        page.get_by_role("button", name="Stop and save").click()
        person.wait_for_state("Stopped")
    finally:
        reopened.end_jobs()
        reopened.close()
        site.__init__(site.home, site.port)  # For whoever comes after.


@pytest.mark.timeout(600)
def test_a_blind_test_goes_to_its_verdict_and_its_result_is_kept(person, twins):
    page, workspace = person.page, person.workspace()
    for name in ("mug-nora", "mug-lora"):
        shutil.copytree(twins[0] / name, workspace.runs / name)
    person.turn_to("Compare")
    person.say("#compare-prompts", "a [V] mug in snow\na [V] mug on sand\na [V] mug at sea")
    person.page.get_by_label("How many seeds").fill("2")
    person.page.get_by_label("How many seeds").blur()
    page.locator("#compare-draw").click()
    sheet = page.locator("#compare-sheet")
    wait_until(lambda: "Finished" in sheet.inner_text(), 240, f"it is drawn: {person.toasts()}")
    page.get_by_role("button", name="Blind test").click()
    view = page.locator("#blind-view")
    view.locator("img").first.wait_for()
    names = "".join(image.get_attribute("src") for image in view.locator("img").all())
    assert "nora" not in names and "lora" not in names and "base" not in names
    verdict = ("No preference shown", "You prefer", "Too few choices")
    for number in range(20):
        before = view.inner_text()
        assert "NoRA" not in before and "LoRA" not in before
        page.locator(("#blind-left", "#blind-tie", "#blind-right")[number % 3]).click()
        wait_until(lambda old=before: view.inner_text() != old, 20, "the next pair")
        if any(words in view.inner_text() for words in verdict):
            break
    told = view.inner_text()
    assert "NoRA" in told and "LoRA" in told and "decoy" in told.lower()
    (kept,) = workspace.pictures.rglob(".test.json")
    assert "verdict" in json.loads(kept.read_text())
    assert person.problems == []


def test_an_adapter_is_exported_and_the_file_loads(person, twins, tiny_base, tmp_path):
    page, workspace = person.page, person.workspace()
    shutil.copytree(twins[0] / "mug-nora", workspace.runs / "mug-nora")
    person.turn_to("Adapters")
    page.locator(".adapter-pick[data-adapter='runs/mug-nora']").click()
    start = page.locator("#adapters-start")
    wait_until(start.is_enabled, 20, "it may be exported")
    start.click()
    link = page.locator("#adapters-made a[href*='download']").first
    link.wait_for(timeout=120_000)
    with page.expect_download() as download:
        link.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    pipe = load_sdxl(str(tiny_base))
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    assert pipe.get_active_adapters()


def test_two_people_see_nothing_of_each_other(browser, site, person):
    person.use_example(SUBJECT)
    image = person.page.locator(".photo-row img").first
    address = image.get_attribute("src")
    other = Person(browser, site)
    try:
        assert other.page.locator(".photo-row").count() == 0
        other.turn_to("Watch")
        time.sleep(2)
        assert "No training yet" in other.page.locator("#watch-progress").inner_text()
        mine = person.context.request.get(f"{site.url}{address}")
        theirs = other.context.request.get(f"{site.url}{address}")
        assert (mine.status, theirs.status) == (200, 404)
    finally:
        other.leave()


def test_twenty_bad_files_are_each_refused_and_a_good_one_is_kept(person, photos, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(8):
        (bad / f"empty{number}.jpg").write_bytes(b"")
        (bad / f"noise{number}.png").write_bytes(bytes(range(256)) * (number + 1))
    (bad / "page.jpg").write_text("<html><script>alert(1)</script></html>")
    (bad / "cut.jpg").write_bytes(photos[0].read_bytes()[:900])
    (bad / "drawing.svg.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    Image.new("L", (20_000, 20_000)).save(bad / "huge.png")
    files = [*sorted(bad.iterdir()), photos[0]]
    assert len(files) == 21
    person.page.locator("#train-drop input[type=file]").set_input_files(files)
    person.page.locator(".photo-row").first.wait_for(timeout=60_000)
    person.page.locator(".upload-notes li").first.wait_for(timeout=60_000)
    assert person.page.locator(".photo-row").count() == 1
    workspace = person.workspace()
    kept = [file for file in (workspace.photos / "new").glob("*.*") if file.suffix == ".jpg"]
    assert [file.read_bytes() for file in kept] == [photos[0].read_bytes()]
    listed = person.page.locator(".upload-notes li")
    assert [text.split()[0].rstrip(":") for text in listed.all_inner_texts()] == [
        file.name for file in files[:-1]
    ]
    caption = tmp_path / f"{photos[0].stem}.txt"  # After its photo, by the visitor's own name.
    caption.write_text("a [V] mug on grass", "utf-8")
    person.page.locator("#train-drop input[type=file]").set_input_files(caption)
    wait_until(
        lambda: person.page.locator("[data-act=caption]").first.input_value() != "", 30, "its words"
    )
    assert listed.count() == 20
    person.page.get_by_role("button", name="Dismiss").click()
    wait_until(lambda: listed.count() == 0, 30, "the list goes")


def test_a_mistake_is_reported_in_one_sentence_and_nothing_starts(person):
    person.use_example(SUBJECT)
    wait_until(lambda: f"--name {SUBJECT}" in person.command(), 30, "the command")
    person.say("#train-class", "cup")  # What the form comes to by it arrives after the typing.
    person.add_flags("--instance-dir ../../../etc")
    person.page.locator("#train-start").click()
    wait_until(lambda: person.toasts(), 20, "it is refused")
    assert "folder of your own" in person.toasts()[0]
    assert person.site.studio.jobs.list_jobs(person.workspace()) == []
