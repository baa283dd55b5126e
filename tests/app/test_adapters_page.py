"""The Adapters tab in a real browser: choosing by keyboard, the command, adding and removing."""

import shutil

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from support.studio_site import Person
from support.tiny import tiny_adapter

from nora_studio.app.server.library import library
from nora_studio.cli import export
from nora_studio.runs.tensor_files import read_tensors, write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.sdxl.models import load_sdxl

playwright = pytest.importorskip("playwright.sync_api")
NORA, LORA = "runs/mug-nora", "runs/mug-lora"


@pytest.fixture
def person(site, browser, twins):
    """Somebody with two finished runs, on the tab; whatever goes wrong on their page fails."""
    somebody = Person(browser, site)
    for name in ("mug-nora", "mug-lora"):
        shutil.copytree(twins[0] / name, somebody.workspace().runs / name)
    somebody.turn_to("Adapters")
    somebody.page.wait_for_selector(card(LORA))
    yield somebody
    somebody.leave()
    assert somebody.problems == []


@pytest.fixture(scope="module")
def hostile(tiny_base, tmp_path_factory):
    """A LoRA file whose header is full of markup, and a pickle of the same suffix."""
    folder = tmp_path_factory.mktemp("hostile")
    adapter = tiny_adapter(folder / "mug", load_sdxl(str(tiny_base)), "lora")
    plain, file = folder / "plain.safetensors", folder / "evil.safetensors"
    export.run(export.Options(adapter, "kohya", plain, model=str(tiny_base)))
    markup = "<img src=x onerror=document.title='run'>"
    text = read_header(plain).metadata["nora_studio"].replace("sks", markup)
    write_tensors(file, read_tensors(plain), {"nora_studio": text})
    pickle = folder / "pickle.safetensors"
    pickle.write_bytes(b"\x80\x04K\x01.")
    return file, pickle


def card(path: str) -> str:
    return f".adapter-pick[data-adapter='{path}']"


def command_is(page, words: str) -> None:
    """Wait until the bench shows the command."""
    playwright.expect(page.locator("#adapters-command")).to_contain_text(words, timeout=30_000)


def test_adapters_chosen_by_keyboard_become_the_command(page):
    command_is(page, "No adapter is chosen")
    assert page.locator("#adapters-start").is_disabled()
    page.locator(card(NORA)).focus()
    page.keyboard.press("Enter")
    command_is(page, f"nora-studio export {NORA} --to kohya")
    assert page.evaluate("document.activeElement.dataset.adapter") == NORA
    page.locator(card(LORA)).focus()
    page.keyboard.press("Space")
    command_is(page, "This action takes one adapter; got 2")
    page.get_by_label("Mix", exact=True).check()
    command_is(page, f"mix --adapters {NORA} {LORA} --weights 1 1")
    slider = page.locator(".chosen input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    command_is(page, "--weights 0.95 1")
    page.locator(".chosen button").nth(1).click()
    command_is(page, "two adapters or more")
    assert page.locator(card(LORA)).get_attribute("aria-pressed") == "false"


def test_files_are_added_removed_and_restored_and_their_names_are_inert(person, hostile):
    page = person.page
    with page.expect_file_chooser() as chooser:
        page.locator("#adapters-upload").click()
    chooser.value.set_files(list(hostile))
    page.wait_for_selector(card("adapters/evil.safetensors"))
    playwright.expect(page.locator("body")).to_contain_text("is a pickle", timeout=30_000)
    assert page.locator(".adapter-words img").count() == 0 and page.title() != "run"
    assert "onerror" in page.locator(".adapter-facts").first.inner_text()
    page.get_by_label("Remove evil.safetensors").click()
    page.wait_for_selector(card("adapters/evil.safetensors"), state="detached")
    assert len(library(person.workspace())) == 2
    page.get_by_role("button", name="Undo removal").click()
    page.wait_for_selector(card("adapters/evil.safetensors"))
    assert str(person.workspace().folder) not in page.content()


def test_nothing_is_published_before_a_dry_run_and_the_token_is_not_stored(person, site):
    page = person.page
    page.locator(card(NORA)).click()
    page.get_by_label("Publish", exact=True).check()
    page.locator("#adapters-repository input, #adapters-repository textarea").fill("ada/mug")
    command_is(page, "push runs/mug-nora ada/mug --private --dry-run")
    page.locator("#adapters-token input").fill("hf_verysecrettoken")
    page.locator("#adapters-publish").click()
    playwright.expect(page.locator("body")).to_contain_text("Press Preview first", timeout=30_000)
    assert site.studio.jobs.list_jobs(person.workspace()) == []
    home = site.studio.auth.home
    for file in [file for file in home.rglob("*") if file.is_file()]:
        assert b"hf_verysecrettoken" not in file.read_bytes()


def test_a_narrow_page_does_not_overflow(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator(card(NORA)).click()
    command_is(page, "nora-studio export")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_visitors_adapters_cannot_be_named(person, site):
    client = Client(site.url, verbose=False, analytics_enabled=False)
    theirs = f"../{person.workspace().folder.name}/{NORA}"
    for path in (NORA, theirs, "/etc/hostname"):
        with pytest.raises(AppError, match="There is no adapter"):
            client.predict("export", [path], [1.0], "kohya", "", api_name="/make_from_adapters")
