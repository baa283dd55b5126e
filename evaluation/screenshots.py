"""Use the web app in a real browser, and keep what it looks like: the README's pictures of it.

    python evaluation/screenshots.py --out assets/readme

Trains a shipped subject through the page, draws it beside LoRA, and takes every tab at 1440 and at
390 pixels, light and dark. Needs Debian's chromium and `pip install playwright`. About 5 minutes on
two cores. Exit status: 0 done, 2 bad input.
"""

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nora_studio.errors import StudioError, run_entry
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_bytes

TABS = ("Train", "Watch", "Compare", "Adapters", "Scores", "History")
SIZES = ((1440, 1000), (390, 844))
PROMPTS = "a photo of a [V] mug in the forest\na photo of a [V] mug under water"
PATIENCE = 600.0
"""Seconds that a training or a drawing may take."""


@dataclass(frozen=True)
class ScreenshotOptions:
    """Train and compare in the web app, and take pictures of every tab."""

    out: Path = Path("screenshots")
    """Folder for the pictures."""
    data: Path | None = None
    """A studio's data folder to use and keep. None: a new one, thrown away."""
    subject: str = "sunrise-mug"
    """A shipped subject."""
    everything: bool = False
    """All tabs at both sizes in both modes, not the README's three alone."""


def main() -> int:
    options = parse_command(ScreenshotOptions)
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise StudioError("needs Debian's chromium: `apt-get install chromium`.")
    from playwright.sync_api import sync_playwright

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = options.data or Path(scratch)
        with served(home) as address, sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=program, args=flags)
            context = browser.new_context(viewport={"width": 1440, "height": 1000})
            page = context.new_page()
            page.set_default_timeout(60_000)
            use(page, address, options)
            state = context.storage_state()
            if options.everything:
                for width, height in SIZES:
                    for mode in ("light", "dark"):
                        other = browser.new_context(
                            viewport={"width": width, "height": height},
                            color_scheme=mode,
                            storage_state=state,
                        )
                        look_around(other.new_page(), address, options.out, f"{width}-{mode}")
            browser.close()
    return 0


@contextlib.contextmanager
def served(home: Path) -> Iterator[str]:
    """The web app in a process of its own."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    app = Path(__file__).parent.parent / "app.py"
    words = [sys.executable, str(app), "--data", str(home), "--port", str(port), "--no-open"]
    process = subprocess.Popen(words)
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, "the app answers")
        if process.poll() is not None:
            raise StudioError("the app did not start; what it said stands above.")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def answers(port: int) -> bool:
    with contextlib.closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Any, what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > until:
            raise StudioError(f"waited {PATIENCE:.0f} s in vain until {what}.")
        time.sleep(0.3)


def use(page: Any, address: str, options: ScreenshotOptions) -> None:
    """Do what a newcomer does, and take a picture of each stage."""
    page.goto(address)
    page.locator(f"[data-subject='{options.subject}']").click()
    page.locator(".photo-row").nth(4).wait_for()
    command = page.locator("#train-command textarea")
    wait_until(lambda: f"--name {options.subject}" in command.input_value(), "the command is there")
    page.locator("#train-measure").click()
    need = page.locator("#train-need")
    wait_until(lambda: "Measured on this machine" in need.inner_text(), "it is measured")
    take(page, options.out / "studio-train.png")
    page.locator("#train-start").click()
    chip = page.locator("#watch-progress .chip")
    wait_until(
        lambda: chip.count() and chip.inner_text() in ("Finished", "Failed"), "it is trained"
    )
    page.mouse.move(0, 0)
    take(page, options.out / "studio-watch.png")
    page.get_by_role("button", name="Compare", exact=True).click()
    prompts = page.locator("#compare-prompts textarea")
    prompts.wait_for()
    prompts.fill(PROMPTS)
    prompts.blur()
    page.locator("#compare-draw").click()
    pictures = page.locator("#compare-sheet img")
    wait_until(lambda: pictures.count() >= 6, "six pictures are drawn")
    wait_until(lambda: "Finished" in page.locator("#compare-sheet").inner_text(), "they are scored")
    page.mouse.move(0, 0)
    take(page, options.out / "studio-compare.png")


def look_around(page: Any, address: str, folder: Path, name: str) -> None:
    """Take every tab."""
    page.goto(address)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        time.sleep(4)
        take(page, folder / f"{tab.lower()}-{name}.png")


def take(page: Any, file: Path) -> None:
    """A picture of the whole page, in as few colours as it has."""
    time.sleep(1)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, type="png")))
    stream = io.BytesIO()
    picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        stream, "PNG", optimize=True
    )
    write_bytes(file, stream.getvalue())
    print(file)


if __name__ == "__main__":
    sys.exit(run_entry(main))
