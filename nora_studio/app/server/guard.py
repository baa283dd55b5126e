"""The outermost middleware: it checks every request and response, Gradio's own included."""

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nora_studio.app.server.auth import SESSION_EXPIRED, Authenticator, Visit
from nora_studio.app.server.csrf import (
    PAGE_HEADERS,
    SAFE_METHODS,
    is_cross_site_link,
    request_problem,
)
from nora_studio.app.server.login_page import LOGIN, RELOAD_PAGE
from nora_studio.app.server.quota import used_bytes
from nora_studio.app.server.request_body import (
    TOO_SLOW,
    USUAL_PACE,
    BodyPace,
    ByteLimit,
    RequestBody,
    TooLarge,
)
from nora_studio.app.server.session_ownership import (
    OTHERS_SESSION,
    SessionOwners,
    body_problem,
    session_in_url,
)
from nora_studio.app.server.upload_cache import KEPT_SECONDS, UploadReservation
from nora_studio.errors import StudioError

GRADIO = "/gradio_api/"
UPLOAD_ROUTE = "/gradio_api/upload"
MAX_UPLOAD_BYTES = 2200 * 1024**2
"""Bytes of all of a visitor's uploads in progress together."""
SMALL_UPLOAD_BYTES = 64 * 1024**2
"""Accepted even if the visitor's folder is full, so that the page can say what to delete."""
MAX_BODY_BYTES = 4 * 1024**2
"""Bytes of any other request."""
MAX_LOGIN_BYTES = 16 * 1024
BLOCKED_ROUTES = (
    # Gradio's routes that fetch from elsewhere, show its own pages, or are not used here.
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
    """ASGI middleware; it must be the outermost, so that no request bypasses it."""

    def __init__(
        self,
        app: ASGIApp,
        auth: Authenticator,
        pace: BodyPace = USUAL_PACE,
        small_upload_bytes: int = SMALL_UPLOAD_BYTES,
    ) -> None:
        self._app = app
        self._auth = auth
        self._pace, self._small_upload_bytes = pace, small_upload_bytes
        self._sessions = SessionOwners()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on to the app or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)
        else:  # A web socket; nothing here uses one.
            await send({"type": "websocket.close", "code": 1008})

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        path, method = scope["path"], scope["method"]
        problem = request_problem(method, headers, self._auth.hosts)
        if problem is not None:
            await reply(send, 403, problem)
            return
        try:
            visit = self._auth.receive(headers)
        except StudioError:  # The file of accounts is damaged, so there is no account.
            visit = Visit(None)
        if (visit.visitor is None or visit.is_new) and is_cross_site_link(headers):
            # The browser withheld its cookies; a reload from our own page sends them.
            await reply(send, 200, RELOAD_PAGE, "text/html; charset=utf-8")
            return
        if self._auth.accounts is not None and visit.visitor is None and path != LOGIN:
            await self._require_login(scope, headers, send)
            return
        if self._auth.accounts is None and visit.visitor is None and method not in SAFE_METHODS:
            await reply(send, 401, json.dumps({"detail": SESSION_EXPIRED}), "application/json")
            return
        if path.startswith(BLOCKED_ROUTES) or not self._may_read_file(visit, path):
            await reply(send, 404, "There is nothing at this address.")
        elif not self._may_use_session(visit, scope):
            await reply(send, 403, OTHERS_SESSION)
        elif _is_upload(scope) and visit.visitor is not None:
            await self._receive_upload(scope, receive, send, visit, _stated_length(headers))
        else:
            limit = ByteLimit(MAX_LOGIN_BYTES if path == LOGIN else MAX_BODY_BYTES)
            await self._forward(scope, receive, send, visit, limit, _stated_length(headers))

    async def _require_login(
        self, scope: Scope, headers: Mapping[str, list[str]], send: Send
    ) -> None:
        """Redirect a person to the login; answer a program with status 401."""
        wants_page = "text/html" in headers.get("accept", [""])[-1]
        if wants_page and scope["method"] in ("GET", "HEAD"):
            path = quote(scope["path"]) if scope["path"] != "/" else ""
            target = f"{LOGIN}?next={quote(path, safe='')}" if path else LOGIN
            await reply(send, 303, "Log in first.", extra=[("location", target)])
        else:
            await reply(send, 401, json.dumps({"detail": "Log in first."}), "application/json")

    async def _receive_upload(
        self, scope: Scope, receive: Receive, send: Send, visit: Visit, stated: int
    ) -> None:
        """Accept files while all of the visitor's uploads together have room."""
        assert visit.visitor is not None
        uploads = self._auth.uploads
        workspace = self._auth.workspace_of(visit.visitor)
        await asyncio.to_thread(uploads.clear_old, KEPT_SECONDS)
        left = workspace.quota - await asyncio.to_thread(used_bytes, workspace)
        room = min(max(left, self._small_upload_bytes), MAX_UPLOAD_BYTES)
        with uploads.reserve(visit.visitor, room) as limit:
            await self._forward(scope, receive, send, visit, limit, stated)

    def _may_read_file(self, visit: Visit, path: str) -> bool:
        """Return whether a path is not a Gradio file, or one that this visitor uploaded."""
        _, found, after = path.partition(_FILE_ROUTE)
        if not found:
            return True
        file = after[1:]  # "=/path", or the older "//path"
        return visit.visitor is not None and self._auth.uploads.belongs(visit.visitor, file)

    def _may_use_session(self, visit: Visit, scope: Scope) -> bool:
        """Return whether a URL names no session, or one of this visitor's."""
        if not scope["path"].startswith(GRADIO):
            return True
        session = session_in_url(scope["path"], scope["query_string"])
        if session is None:
            return True
        return visit.visitor is not None and self._sessions.claim(session, visit.visitor)

    async def _forward(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        visit: Visit,
        limit: ByteLimit | UploadReservation,
        stated: int,
    ) -> None:
        body = RequestBody(receive, limit.add, self._pace)
        response = _Response(self._auth, visit, scope, send, body)
        try:
            body.check(stated, limit.expect)
            if _is_event(scope) and visit.visitor is not None:
                text = await body.read_all()
                problem = body_problem(text, visit.visitor, self._auth.uploads, self._sessions)
                if problem is not None:
                    await reply(send, 403, json.dumps({"detail": problem}), "application/json")
                    return
            await self._app(_with_new_cookie(scope, visit), body.receive, response.send)
        except Exception:
            if body.problem is None or response.has_begun:
                raise
        if body.problem is None or response.has_begun:
            return
        if isinstance(body.problem, TooLarge):
            # The server reads and drops the rest of the body: otherwise the response would be lost.
            await reply(send, 413, str(body.problem))
        else:
            await reply(send, 408, TOO_SLOW, extra=[("connection", "close")])


class _Response:
    """A wrapper of `send` that adds headers and cookies to a response, and records uploads."""

    def __init__(
        self, auth: Authenticator, visit: Visit, scope: Scope, send: Send, body: RequestBody
    ) -> None:
        self._auth, self._visit, self._scope, self._send = auth, visit, scope, send
        self._request_body = body
        self._is_upload = _is_upload(scope)
        self._body = b""
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Forward one message of the app."""
        if self._request_body.problem is not None and not self.has_begun:
            return  # The guard sends the error itself: the app does not know its cause.
        self.has_begun = True
        if message["type"] == "http.response.start":
            message = {
                **message,
                "headers": [*message.get("headers", []), *self._extra_headers(message)],
            }
        elif self._is_upload and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            # Before the last part is sent, since the page may request the file next.
            if not message.get("more_body", False):
                self._record()
        await self._send(message)

    def _extra_headers(self, message: Message) -> list[tuple[bytes, bytes]]:
        present = {name.decode("latin-1").lower(): value for name, value in message["headers"]}
        added = {name: value for name, value in PAGE_HEADERS.items() if name not in present}
        is_page = present.get("content-type", b"").startswith(b"text/html")
        if is_page:
            added["cache-control"] = "no-store"
        is_browsers = self._visit.is_new or is_page
        if self._auth.accounts is None and self._visit.cookie is not None and is_browsers:
            is_https = self._scope.get("scheme") == "https"
            added["set-cookie"] = self._auth.renewal_cookie(self._visit, is_https)
        return [(name.encode(), value.encode()) for name, value in added.items()]

    def _record(self) -> None:
        try:
            paths = json.loads(self._body)
        except ValueError:
            return  # An error message, not a list of paths.
        for path in paths if isinstance(paths, list) else []:
            if isinstance(path, str) and self._visit.visitor is not None:
                self._auth.uploads.record(self._visit.visitor, path)


def _is_upload(scope: Scope) -> bool:
    return scope["path"].rstrip("/") == UPLOAD_ROUTE


def _is_event(scope: Scope) -> bool:
    """Return whether a request to Gradio has a body that it acts on."""
    is_gradio = scope["path"].startswith(GRADIO)
    return is_gradio and scope["method"] not in SAFE_METHODS and not _is_upload(scope)


def _with_new_cookie(scope: Scope, visit: Visit) -> Scope:
    """Return the request as the app sees it, with the cookie that it was just given."""
    headers = list(scope["headers"])
    if visit.is_new and visit.cookie is not None:
        # Put it first in a single line, which is what readers of headers use.
        lines = [visit.cookie.encode(), *(value for name, value in headers if name == b"cookie")]
        headers = [(name, value) for name, value in headers if name != b"cookie"]
        headers.append((b"cookie", b"; ".join(lines)))
    if _is_upload(scope):  # The response is read on its way out, so it must not be compressed.
        headers = [(name, value) for name, value in headers if name != b"accept-encoding"]
    return {**scope, "headers": headers}


def _stated_length(headers: Mapping[str, list[str]]) -> int:
    text = headers.get("content-length", ["0"])[-1]
    return int(text) if text.isascii() and text.isdigit() else 0


def headers_of(scope: Scope) -> dict[str, list[str]]:
    """Return a request's headers by lower-case name."""
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
    """Send a complete response."""
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
