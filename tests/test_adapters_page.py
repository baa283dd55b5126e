"""The Adapters tab in a real browser: choosing by keyboard, the command, adding and removing."""

import shutil
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import uvicorn
from gradio_client import Client
from gradio_client.exceptions import AppError
from tiny import tiny_adapter

from nora_studio.commands import export
from nora_studio.commands.options import ExportOptions
from nora_studio.formats.container import read_header, read_tensors, write_tensors
from nora_studio.models import load_sdxl
from nora_studio.studio.library import library

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
NORA, LORA = "runs/mug-nora", "runs/mug-lora"


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A running studio."""
    from nora_studio.ui.server import UiOptions, make_app, open_studio

    studio = open_studio(tmp_path_factory.mktemp("studio") / "home", UiOptions())
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(studio), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield SimpleNamespace(studio=studio, url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.should_exit = server.force_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(studio, browser, twins):
    """The tab, open, of a visitor with two finished runs; whatever goes wrong on it fails."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("response", lambda r: errors.append(r.url) if r.status >= 500 else None)
    page.on("request", lambda r: errors.append(r.url) if studio.url not in r.url else None)
    page.goto(studio.url)
    page.wait_for_selector("#tab-adapters-button >> visible=true")
    line = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in context.cookies())
    workspace = studio.studio.workspace({"cookie": line})
    for name in ("mug-nora", "mug-lora"):
        shutil.copytree(twins[0] / name, workspace.runs / name)
    page.workspace = workspace
    page.click("#tab-adapters-button >> visible=true")
    page.wait_for_selector(card(LORA))
    yield page
    context.close()
    assert not [url for url in errors if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def hostile(tiny_base, tmp_path_factory):
    """A LoRA file whose header is full of markup, and a pickle of the same suffix."""
    folder = tmp_path_factory.mktemp("hostile")
    adapter = tiny_adapter(folder / "mug", load_sdxl(str(tiny_base)), "lora")
    plain, file = folder / "plain.safetensors", folder / "evil.safetensors"
    export.run(ExportOptions(adapter, "kohya", plain, model=str(tiny_base)))
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


def test_what_is_chosen_by_the_keyboard_becomes_the_command(page):
    command_is(page, "Choose an adapter")
    assert page.locator("#adapters-start").is_disabled()
    page.locator(card(NORA)).focus()
    page.keyboard.press("Enter")
    command_is(page, f"nora-studio export {NORA} --to kohya")
    assert page.evaluate("document.activeElement.dataset.adapter") == NORA
    page.locator(card(LORA)).focus()
    page.keyboard.press("Space")
    command_is(page, "This takes one adapter")
    page.get_by_label("Mix", exact=True).check()
    command_is(page, f"mix --adapters {NORA} {LORA} --weights 1 1")
    slider = page.locator(".chosen input[type=range]").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    command_is(page, "--weights 0.95 1")
    page.locator(".chosen button").nth(1).click()
    command_is(page, "two adapters or more")
    assert page.locator(card(LORA)).get_attribute("aria-pressed") == "false"


def test_files_are_added_removed_and_brought_back_and_none_of_their_words_run(page, hostile):
    with page.expect_file_chooser() as chooser:
        page.locator("#adapters-upload").click()
    chooser.value.set_files(list(hostile))
    page.wait_for_selector(card("adapters/evil.safetensors"))
    playwright.expect(page.locator("body")).to_contain_text("is a pickle", timeout=30_000)
    assert page.locator(".adapter-words img").count() == 0 and page.title() != "run"
    assert "onerror" in page.locator(".adapter-facts").first.inner_text()
    page.get_by_label("Remove evil.safetensors").click()
    page.wait_for_selector(card("adapters/evil.safetensors"), state="detached")
    assert len(library(page.workspace)) == 2
    page.get_by_role("button", name="Undo removal").click()
    page.wait_for_selector(card("adapters/evil.safetensors"))
    assert str(page.workspace.folder) not in page.content()


def test_nothing_is_published_before_a_look_and_the_token_stays_nowhere(page, studio):
    page.locator(card(NORA)).click()
    page.get_by_label("Publish", exact=True).check()
    page.locator("#adapters-repository input, #adapters-repository textarea").fill("ada/mug")
    command_is(page, "push runs/mug-nora ada/mug --private --dry-run")
    page.locator("#adapters-token input").fill("hf_verysecrettoken")
    page.locator("#adapters-publish").click()
    playwright.expect(page.locator("body")).to_contain_text("press Look first", timeout=30_000)
    assert studio.studio.jobs.of(page.workspace) == []
    home = studio.studio.doorman.home
    for file in [file for file in home.rglob("*") if file.is_file()]:
        assert b"hf_verysecrettoken" not in file.read_bytes()


def test_a_narrow_page_does_not_run_over(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator(card(NORA)).click()
    command_is(page, "nora-studio export")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_visitors_adapters_cannot_be_named(page, studio):
    client = Client(studio.url, verbose=False, analytics_enabled=False)
    theirs = f"../{page.workspace.folder.name}/{NORA}"
    for path in (NORA, theirs, "/etc/hostname"):
        with pytest.raises(AppError, match="there is no adapter"):
            client.predict("export", [path], [1.0], "kohya", "", api_name="/make_from_adapters")
