"""The guard before the app: every request passes it, and every answer, Gradio's own included."""

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nora_studio.app.server.auth import SESSION_EXPIRED, Authenticator, Visit
from nora_studio.app.server.csrf import PAGE_HEADERS, READING, is_cross_site_link, refusal
from nora_studio.app.server.login_page import AGAIN_PAGE, LOGIN
from nora_studio.app.server.quota import used_bytes
from nora_studio.app.server.request_body import TOO_SLOW, Counter, RequestBody, TooLarge
from nora_studio.app.server.session_ownership import (
    OTHERS_SESSION,
    Sessions,
    problem_with_body,
    session_in_url,
)
from nora_studio.app.server.upload_cache import KEPT_SECONDS, Arrival
from nora_studio.errors import StudioError

GRADIO = "/gradio_api/"
UPLOAD_ROUTE = "/gradio_api/upload"
MOST_UPLOAD_BYTES = 2200 * 1024**2
"""Of a visitor's requests with files in them, all that are under way together."""
SMALL_UPLOAD_BYTES = 64 * 1024**2
"""So much is let in even where the visitor's folder is full: the page then says what to delete."""
MOST_BODY_BYTES = 4 * 1024**2
"""Of any other request."""
MOST_LOGIN_BYTES = 16 * 1024
CLOSED = (
    # Of Gradio's routes, those that fetch from elsewhere, show its own pages, or nothing here uses.
    "/gradio_api/proxy=",
    "/gradio_api/stream/",
    "/gradio_api/process_recording",
    "/gradio_api/vibe-",
    "/gradio_api/dev/",
    "/gradio_api/runs",
    "/gradio_api/run-history",
    "/gradio_api/profiling",
    "/gradio_api/token",
    "/gradio_api/user",
    "/monitoring",
)
_FILE_ROUTE = "gradio_api/file"


class Guard:
    """ASGI middleware; the outermost, so that nothing is reached but through it."""

    def __init__(self, app: ASGIApp, auth: Authenticator) -> None:
        self._app = app
        self._auth = auth
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # A web socket: nothing here speaks it.
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        path, method = scope["path"], scope["method"]
        problem = refusal(method, headers, self._auth.hosts)
        if problem is not None:
            await reply(send, 403, problem)
            return
        try:
            visit = self._auth.receive(headers)
        except StudioError:  # The file of accounts is damaged: nobody is let in.
            visit = Visit(None)
        if (visit.visitor is None or visit.is_new) and is_cross_site_link(headers):
            # The browser has sent no cookie, whether it has one or not. Its own page asks again.
            await reply(send, 200, AGAIN_PAGE, "text/html; charset=utf-8")
            return
        if self._auth.accounts is not None and visit.visitor is None and path != LOGIN:
            await self._send_away(scope, headers, send)
            return
        if self._auth.accounts is None and visit.visitor is None and method not in READING:
            await reply(send, 401, json.dumps({"detail": SESSION_EXPIRED}), "application/json")
            return
        if path.startswith(CLOSED) or not self._may_fetch(visit, path):
            await reply(send, 404, "There is nothing at this address.")
        elif not self._may_follow(visit, scope):
            await reply(send, 403, OTHERS_SESSION)
        elif _is_upload(scope) and visit.visitor is not None:
            await self._take_upload(scope, receive, send, visit, _stated_length(headers))
        else:
            count = Counter(MOST_LOGIN_BYTES if path == LOGIN else MOST_BODY_BYTES)
            await self._pass_on(scope, receive, send, visit, count, _stated_length(headers))

    async def _send_away(self, scope: Scope, headers: Mapping[str, list[str]], send: Send) -> None:
        """Lead a person to the login, and tell a program that it needs one."""
        wants_page = "text/html" in headers.get("accept", [""])[-1]
        if wants_page and scope["method"] in ("GET", "HEAD"):
            place = quote(scope["path"]) if scope["path"] != "/" else ""
            target = f"{LOGIN}?next={quote(place, safe='')}" if place else LOGIN
            await reply(send, 303, "Log in first.", extra=[("location", target)])
        else:
            await reply(send, 401, json.dumps({"detail": "Log in first."}), "application/json")

    async def _take_upload(
        self, scope: Scope, receive: Receive, send: Send, visit: Visit, stated: int
    ) -> None:
        """Let files in as far as the visitor has room, all of their uploads together."""
        assert visit.visitor is not None
        uploads = self._auth.uploads
        workspace = self._auth.workspace_of(visit.visitor)
        await asyncio.to_thread(uploads.clear_old, KEPT_SECONDS)
        left = workspace.quota - await asyncio.to_thread(used_bytes, workspace)
        room = min(max(left, SMALL_UPLOAD_BYTES), MOST_UPLOAD_BYTES)
        with uploads.arriving(visit.visitor, room) as count:
            await self._pass_on(scope, receive, send, visit, count, stated)

    def _may_fetch(self, visit: Visit, path: str) -> bool:
        """Whether a path is none of Gradio's files, or one that this visitor has uploaded."""
        _, found, after = path.partition(_FILE_ROUTE)
        if not found:
            return True
        file = after[1:]  # "=/path", or the older "//path"
        return visit.visitor is not None and self._auth.uploads.belongs(visit.visitor, file)

    def _may_follow(self, visit: Visit, scope: Scope) -> bool:
        """Whether an address names no session, or one of this visitor's."""
        if not scope["path"].startswith(GRADIO):
            return True
        session = session_in_url(scope["path"], scope["query_string"])
        if session is None:
            return True
        return visit.visitor is not None and self._sessions.is_own(session, visit.visitor)

    async def _pass_on(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        visit: Visit,
        count: Counter | Arrival,
        stated: int,
    ) -> None:
        body = RequestBody(receive, count.add)
        answer = _Answer(self._auth, visit, scope, send, body)
        try:
            body.check(stated, count.expect)
            if _is_event(scope) and visit.visitor is not None:
                text = await body.whole()
                problem = problem_with_body(text, visit.visitor, self._auth.uploads, self._sessions)
                if problem is not None:
                    await reply(send, 403, json.dumps({"detail": problem}), "application/json")
                    return
            await self._app(_known(scope, visit), body.receive, answer.send)
        except Exception:
            if body.problem is None or answer.has_begun:
                raise
        if body.problem is None or answer.has_begun:
            return
        if isinstance(body.problem, TooLarge):
            # What is still on its way is read and dropped: else the answer would be lost, too.
            await reply(send, 413, str(body.problem))
        else:
            await reply(send, 408, TOO_SLOW, extra=[("connection", "close")])


class _Answer:
    """What is added to an answer on its way out."""

    def __init__(
        self, auth: Authenticator, visit: Visit, scope: Scope, send: Send, asked: RequestBody
    ) -> None:
        self._auth, self._visit, self._scope, self._send = auth, visit, scope, send
        self._asked = asked
        self._is_upload = _is_upload(scope)
        self._body = b""
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send one message of the app's on."""
        if self._asked.problem is not None and not self.has_begun:
            return  # The guard says what is wrong; the app knows only that something is.
        self.has_begun = True
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *self._added(message)]}
        elif self._is_upload and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            # Before the last of it is out: what the page asks next may be the file itself.
            if not message.get("more_body", False):
                self._record()
        await self._send(message)

    def _added(self, message: Message) -> list[tuple[bytes, bytes]]:
        there = {name.decode("latin-1").lower(): value for name, value in message["headers"]}
        added = {name: value for name, value in PAGE_HEADERS.items() if name not in there}
        is_page = there.get("content-type", b"").startswith(b"text/html")
        if is_page:
            added["cache-control"] = "no-store"
        is_browsers = self._visit.is_new or is_page
        if self._auth.accounts is None and self._visit.cookie is not None and is_browsers:
            is_https = self._scope.get("scheme") == "https"
            added["set-cookie"] = self._auth.renewed(self._visit, is_https)
        return [(name.encode(), value.encode()) for name, value in added.items()]

    def _record(self) -> None:
        try:
            paths = json.loads(self._body)
        except ValueError:
            return  # An error in words.
        for path in paths if isinstance(paths, list) else []:
            if isinstance(path, str) and self._visit.visitor is not None:
                self._auth.uploads.record(self._visit.visitor, path)


def _is_upload(scope: Scope) -> bool:
    return scope["path"].rstrip("/") == UPLOAD_ROUTE


def _is_event(scope: Scope) -> bool:
    """Whether a request to Gradio has something in it that it acts upon."""
    is_gradio = scope["path"].startswith(GRADIO)
    return is_gradio and scope["method"] not in READING and not _is_upload(scope)


def _known(scope: Scope, visit: Visit) -> Scope:
    """The request as the app sees it: with the cookie that it has only just been given."""
    headers = list(scope["headers"])
    if visit.is_new and visit.cookie is not None:
        # In one line with what came, and first: that is what readers of headers look at.
        lines = [visit.cookie.encode(), *(value for name, value in headers if name == b"cookie")]
        headers = [(name, value) for name, value in headers if name != b"cookie"]
        headers.append((b"cookie", b"; ".join(lines)))
    if _is_upload(scope):  # The answer is read on its way out.
        headers = [(name, value) for name, value in headers if name != b"accept-encoding"]
    return {**scope, "headers": headers}


def _stated_length(headers: Mapping[str, list[str]]) -> int:
    text = headers.get("content-length", ["0"])[-1]
    return int(text) if text.isascii() and text.isdigit() else 0


def headers_of(scope: Scope) -> dict[str, list[str]]:
    """A request's headers by small-letter name."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


async def reply(
    send: Send,
    status: int,
    text: str,
    kind: str = "text/plain; charset=utf-8",
    extra: list[tuple[str, str]] | None = None,
) -> None:
    """Answer a request here and now."""
    body = text.encode()
    headers = PAGE_HEADERS | {
        "content-type": kind,
        "content-length": str(len(body)),
        "cache-control": "no-store",
    }
    pairs = [*headers.items(), *(extra or [])]
    start = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(name.encode(), value.encode()) for name, value in pairs]})
    await send({"type": "http.response.body", "body": body})
