"""The web app's door with a small page behind it, on a real port, and hand-made requests to it."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from nora_studio.app.server.accounts import Accounts, hash_password
from nora_studio.app.server.asgi import guarded_app
from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.connections import server_config
from nora_studio.app.server.limits import QUOTA_BYTES
from nora_studio.app.server.login_limits import LoginRateLimiter
from nora_studio.app.server.workspace import Workspace

CHEAP = (2**4, 8, 1)
"""scrypt's cost where no secret is at stake."""
PASSWORD = "correct horse battery"
PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
"""What a browser sends for a page that a person opens."""
FETCH = {"sec-fetch-mode": "cors", "sec-fetch-site": "same-origin"}
"""And for what that page fetches."""


@dataclass(frozen=True)
class Serving:
    """A running server."""

    port: int
    auth: Authenticator

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self) -> httpx.Client:
        """A browser with a cookie jar of its own, which has opened no page yet."""
        return httpx.Client(base_url=self.url, timeout=30)

    def visitor(self) -> tuple[httpx.Client, Workspace]:
        """A browser that has opened the page, and the folder of whoever uses it."""
        client = self.browser()
        assert client.get("/", headers=PAGE).status_code == 200
        return client, self.workspace(client)

    def workspace(self, client: httpx.Client) -> Workspace:
        """The folder of whoever uses a browser."""
        line = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        return self.auth.workspace({"cookie": line})

    def raw(self, path: str, cookies: str = "", method: str = "GET", **headers: str):
        """Send a request's line as it is, which no client would; status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, "/", skip_host=True, skip_accept_encoding=True)
        # http.client refuses what it would never send.
        connection._buffer[0] = f"{method} {path} HTTP/1.1".encode("utf-8", "surrogateescape")  # type: ignore[attr-defined]
        sent = {"host": f"127.0.0.1:{self.port}", "connection": "close"} | headers
        for name, value in (sent | ({"cookie": cookies} if cookies else {})).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body


def cookie_line(client: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


@contextlib.contextmanager
def serving(
    home: Path,
    accounts: dict[str, str] | None = None,
    time_scale: float = 0,
    proxies: tuple[str, ...] = (),
    quota: int = QUOTA_BYTES,
    limiter: LoginRateLimiter | None = None,
    connections: dict[str, Any] | None = None,
    **limits: Any,
) -> Iterator:
    """Serve the guarded app over a Gradio page with one button, for as long as the block lasts.

    Args:
        accounts: Passwords by name; None: no accounts.
        time_scale: Factor on the login's delays.
        proxies: Addresses that are believed what they say of a visitor's address.
        quota: Bytes that each visitor's folder may take.
        limiter: Of logins; None: one of its own.
        connections: Further settings of `server_config`.
        limits: Settings of the guard.
    """
    import gradio as gr

    known = None
    if accounts is not None:
        known = Accounts(write_accounts(home.with_name("accounts.txt"), accounts))
    auth = Authenticator(home, accounts=known, quota=quota)
    auth.uploads.set_gradio_folder()
    with gr.Blocks(analytics_enabled=False) as blocks:
        files, button, told = gr.File(file_count="multiple"), gr.Button(), gr.Textbox()

        def who(given: list[str] | None, request: gr.Request) -> str:
            visitor = auth.visitor(request.headers)
            claimed = [auth.uploads.claim(visitor, path).name for path in given or []]
            return f"{visitor} {','.join(claimed)}"

        button.click(who, files, told, api_name="who")
    app = guarded_app(auth, limiter or LoginRateLimiter(time_scale), **limits)
    gr.mount_gradio_app(app, blocks, path="/", run_history=False, footer_links=[], ssr_mode=False)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        server_config(app, proxies, log_level="critical", **(connections or {}))
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Serving(listener.getsockname()[1], auth)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def write_accounts(file: Path, passwords: dict[str, str]) -> Path:
    """A file of accounts, as cheap to check as possible."""
    lines = [f"{name}:{hash_password(password, CHEAP)}" for name, password in passwords.items()]
    file.write_text("\n".join(["# who may come in", *lines]) + "\n")
    return file
