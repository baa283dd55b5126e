"""Logging in and out: the routes, and the patience that makes guessing slow."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from nora_studio.errors import StudioError
from nora_studio.studio.doorman import Doorman
from nora_studio.studio.login_page import LOGIN, LOGOUT, login_page

FREE_FAILURES = 3
"""Wrong passwords that cost no waiting."""
LONGEST_WAIT = 16.0
"""Seconds."""
FORGOTTEN_AFTER = 15 * 60.0
"""Seconds until wrong passwords are forgotten."""
MOST_IN_LINE = 4
"""Attempts on one account from one address at a time."""
MOST_KNOWN = 10_000
CHECKS_AT_ONCE = 2
WRONG = "This name and password do not belong together."
BUSY = "Too many attempts. Wait a minute, then try again."


@dataclass
class _Line:
    """Attempts on one account from one address."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    failures: int = 0
    last: float = 0.0


class Patience:
    """Lets attempts through one after the other, each wrong one later than the one before."""

    def __init__(self, second: float = 1.0) -> None:
        """Begin with nobody known.

        Args:
            second: Length of what is waited in; shorter in tests.
        """
        self._second = second
        self._lines: dict[tuple[str, str], _Line] = {}
        # Each check takes 32 MiB and a core.
        self._checks = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def attempt(self, name: str, address: str, check: Callable[[], bool]) -> bool | None:
        """What the check says, in its time; None: too many wait in line already."""
        line = self._lines.setdefault((name[:64], address), _Line())
        while len(self._lines) > MOST_KNOWN:
            self._lines.pop(next(iter(self._lines)))
        if line.waiting >= MOST_IN_LINE:
            return None
        line.waiting += 1
        try:
            async with line.lock:
                if time.monotonic() - line.last > FORGOTTEN_AFTER:
                    line.failures = 0
                if line.failures >= FREE_FAILURES:
                    wait = min(2.0 ** (line.failures - FREE_FAILURES), LONGEST_WAIT)
                    await asyncio.sleep(wait * self._second)
                async with self._checks:
                    is_right = await asyncio.to_thread(check)
                line.failures = 0 if is_right else line.failures + 1
                line.last = time.monotonic()
                return is_right
        finally:
            line.waiting -= 1


def login_routes(doorman: Doorman, patience: Patience | None = None) -> list[Route]:
    """The routes /login and /logout.

    The login answers a browser's form with the page it was on the way to, and a program
    (gradio_client's `auth=`) with a line of JSON, both with the session's cookie.
    """
    queue = patience or Patience()

    async def show(request: Request) -> Response:
        if doorman.accounts is None or doorman.account(request.headers) is not None:
            return RedirectResponse("/", status_code=303)
        return HTMLResponse(login_page(next_path=_local(request.query_params.get("next", ""))))

    async def enter(request: Request) -> Response:
        form = await request.form()
        name, password, after = (_text(form.get(key)) for key in ("username", "password", "next"))
        is_https = request.url.scheme == "https"
        cookie: list[str] = []

        def check() -> bool:
            try:
                line = doorman.log_in(name.strip(), password, is_https)
            except StudioError:  # The file of accounts is damaged: nobody is let in.
                return False
            cookie.extend([line] if line is not None else [])
            return line is not None

        address = request.client.host if request.client else ""
        is_right = await queue.attempt(name.strip(), address, check)
        is_person = "text/html" in request.headers.get("accept", "")
        if not is_right:
            status, problem = (429, BUSY) if is_right is None else (401, WRONG)
            if is_person:
                return HTMLResponse(login_page(problem, _local(after), name[:64]), status)
            return JSONResponse({"detail": problem}, status)
        answer = (
            RedirectResponse(_local(after) or "/", status_code=303)
            if is_person
            else JSONResponse({"success": True})
        )
        answer.headers["set-cookie"] = cookie[0]
        return answer

    async def leave(request: Request) -> Response:
        cookies = request.headers.getlist("cookie")
        answer = RedirectResponse(LOGIN, status_code=303)
        answer.headers["set-cookie"] = doorman.log_out(cookies, request.url.scheme == "https")
        answer.headers["clear-site-data"] = '"cache"'
        return answer

    return [
        Route(LOGIN, show, methods=["GET"]),
        Route(LOGIN, enter, methods=["POST"]),
        Route(LOGOUT, leave, methods=["POST"]),
    ]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _local(path: str) -> str:
    """A path of this server's; what would lead elsewhere becomes empty."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else ""
