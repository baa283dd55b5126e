"""The whole web app on a real port, and people with real browsers who use it."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from nora_studio.app.serve import UiOptions, make_app, open_studio
from nora_studio.app.server.connections import server_config
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
LONG = 240.0
"""Seconds that a training or a drawing may take on a busy machine."""


class Site:
    """A studio that is served; it can be closed and opened again on the same folder."""

    def __init__(self, home: Path, port: int | None = None) -> None:
        self.home, self.port = home, port or free_port()
        self.studio: Studio = open_studio(home, UiOptions(data=home))
        config = server_config(make_app(self.studio), port=self.port, log_level="error")
        self._server = uvicorn.Server(config)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._server.run, daemon=True),
            threading.Thread(target=self.studio.run_queue, args=(self._stop,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self._server.started, 60, "the server answers")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """End the server; jobs at work go on."""
        self._stop.set()
        self._server.should_exit = self._server.force_exit = True
        self.studio.image_queue.close()
        for thread in self._threads:
            thread.join(timeout=20)

    def end_jobs(self) -> None:
        """End whatever is at work."""
        jobs = self.studio.jobs
        for job in jobs._all():
            if jobs.state(job) == "waiting":
                jobs.stop(job)
            jobs.kill(job)


def free_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until(is_so: Callable[[], object], seconds: float = LONG, what: str = "it") -> None:
    """Wait for something to be so.

    Raises:
        AssertionError: it is not, in that time.
    """
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def chromium() -> Iterator:
    """Debian's Chromium under Playwright; skips where it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser of their own; whatever goes wrong in their page is kept."""

    def __init__(self, browser, site: Site, width: int = 1440) -> None:
        self.site = site
        self.context = browser.new_context(
            viewport={"width": width, "height": 1000}, accept_downloads=True
        )
        self.context.set_default_timeout(30_000)
        self.problems: list[str] = []
        self.page = self.tab()

    def tab(self):
        """Another tab of the same browser, on the studio's page."""
        page = self.context.new_page()
        page.on("console", lambda m: self._hear(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self._hear(str(error)))
        page.on("request", lambda request: self._check_address(request.url))
        page.goto(self.site.url)
        page.get_by_role("tab", name="Train").wait_for()
        return page

    def _hear(self, words: str) -> None:
        self.problems.append(words)

    def _check_address(self, url: str) -> None:
        if not url.startswith((self.site.url, "data:", "blob:")):
            self.problems.append(f"a request left the machine: {url}")

    def workspace(self) -> Workspace:
        """Their folder."""
        cookies = self.context.cookies()
        line = "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)
        return self.site.studio.workspace({"cookie": line})

    def turn_to(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab).click()

    def use_example(self, subject: str) -> None:
        self.page.locator(f"[data-subject='{subject}']").click()
        self.page.locator(".photo-row").nth(4).wait_for()

    def say(self, selector: str, text: str) -> None:
        """Write into a field, as typed."""
        field = self.page.locator(f"{selector} input, {selector} textarea").first
        field.fill(text)
        field.blur()

    def command(self) -> str:
        return self.page.locator("#train-command textarea").input_value()

    def add_flags(self, flags: str) -> None:
        """Write further flags at the end of the command."""
        self.page.locator("#train-command textarea").fill(f"{self.command()} {flags}")
        self.page.get_by_role("button", name="Back to the form's command").wait_for()

    def start(self) -> None:
        self.page.locator("#train-start").click()
        self.page.locator("#watch-progress .progress").wait_for()

    def wait_for_state(self, *states: str, seconds: float = LONG) -> str:
        """Wait until Watch tells one of these states."""
        chip = self.page.locator("#watch-progress .chip")
        wait_until(
            lambda: chip.count() and chip.inner_text() in states,
            seconds,
            f"it says {' or '.join(states)}: {self._watched()}",
        )
        return chip.inner_text()

    def _watched(self) -> str:
        return self.page.locator("#watch-progress").inner_text()

    def toasts(self) -> list[str]:
        return [one.inner_text() for one in self.page.locator(".toast-body").all()]

    def press_until_answered(self, button: str, selector: str, words: str) -> None:
        """Press a button; once more where the page was not listening yet."""

        def answered() -> bool:
            self.page.locator(button).click()
            place = self.page.locator(selector)
            with contextlib.suppress(AssertionError):
                wait_until(lambda: words in place.inner_text(), 8, words)
            return words in place.inner_text()

        wait_until(answered, 60, f"{button} answers")

    def leave(self) -> None:
        self.context.close()
