"""Use the web app in a real browser and take screenshots of it, such as those of the README.

    python evaluation/screenshots.py --out assets/readme

Trains a shipped subject through the page and compares it with LoRA. With `--everything`, takes
every tab at 1440 and at 390 pixels, light and dark. Needs Debian's chromium and `pip install
playwright`. Takes about 5 minutes on two cores. Exit status: 0 done, 2 bad input.
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

from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_bytes
from nora_studio.runs.entry import run_entry

TABS = ("Train", "Watch", "Compare", "Adapters", "Scores", "History")
SIZES = ((1440, 1000), (390, 844))
PROMPTS = "a photo of a [V] mug in the forest\na photo of a [V] mug under water"
TIMEOUT = 600.0
"""Seconds that a training or the generation of images may take."""


@dataclass(frozen=True)
class ScreenshotOptions:
    """Train and compare in the web app, and take screenshots."""

    out: Path = Path("screenshots")
    """Folder for the screenshots."""
    data: Path | None = None
    """Data folder of the app to use and keep. None: a temporary one."""
    subject: str = "sunrise-mug"
    """Name of a shipped subject."""
    everything: bool = False
    """Take all tabs at both sizes in both modes, in addition to the README's three."""


def main() -> int:
    """Take the screenshots and return the exit status."""
    options = parse_command(ScreenshotOptions)
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise StudioError(
            "expected Debian's chromium; it is not installed. Run `apt-get install chromium`."
        )
    from playwright.sync_api import sync_playwright

    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = options.data or Path(scratch)
        with running_app(home) as address, sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=program, args=flags)
            context = browser.new_context(viewport={"width": 1440, "height": 1000})
            page = context.new_page()
            page.set_default_timeout(60_000)
            train_and_compare(page, address, options)
            state = context.storage_state()
            if options.everything:
                for width, height in SIZES:
                    for mode in ("light", "dark"):
                        other = browser.new_context(
                            viewport={"width": width, "height": height},
                            color_scheme=mode,
                            storage_state=state,
                        )
                        take_all_tabs(other.new_page(), address, options.out, f"{width}-{mode}")
            browser.close()
    return 0


@contextlib.contextmanager
def running_app(home: Path) -> Iterator[str]:
    """Run the web app in its own process and yield its address."""
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    app = Path(__file__).parent.parent / "app.py"
    command = [sys.executable, str(app), "--data", str(home), "--port", str(port), "--no-open"]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: is_listening(port) or process.poll() is not None, "the app answers")
        if process.poll() is not None:
            raise StudioError("the app did not start. See its output above.")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


def is_listening(port: int) -> bool:
    """Return whether something listens on the port."""
    with contextlib.closing(socket.socket()) as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Any, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        StudioError: it does not hold within `TIMEOUT`.
    """
    until = time.monotonic() + TIMEOUT
    while not is_so():
        if time.monotonic() > until:
            raise StudioError(f"waited {TIMEOUT:.0f} s until {what}, without success.")
        time.sleep(0.3)


def train_and_compare(page: Any, address: str, options: ScreenshotOptions) -> None:
    """Train a subject and compare it through the page, taking a screenshot of each stage."""
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
    wait_until(lambda: pictures.count() >= 6, "six images are generated")
    wait_until(lambda: "Finished" in page.locator("#compare-sheet").inner_text(), "they are scored")
    page.mouse.move(0, 0)
    take(page, options.out / "studio-compare.png")


def take_all_tabs(page: Any, address: str, folder: Path, name: str) -> None:
    """Take a screenshot of every tab."""
    page.goto(address)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        time.sleep(4)
        take(page, folder / f"{tab.lower()}-{name}.png")


def take(page: Any, file: Path) -> None:
    """Take a screenshot of the whole page and save it with a palette of 256 colours."""
    time.sleep(1)
    image = Image.open(io.BytesIO(page.screenshot(full_page=True, type="png")))
    stream = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
    write_bytes(file, stream.getvalue())
    print(file)


if __name__ == "__main__":
    sys.exit(run_entry(main))
