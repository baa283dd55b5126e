"""Connections to the web server: uvicorn, with limits on their number and on how long they idle.

uvicorn waits without limit for the first request of a connection, and for the rest of a request
whose head has begun; its own idle limit starts after a response. So this module adds a limit on the
time until a request's head is complete, and one on the connections of one address. `request_body`
limits how slowly a body may arrive. assets/serving.md leaves other attacks to a proxy.
"""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from nora_studio.app.server.login_limits import network_of

HEAD_SECONDS = 15.0
"""Seconds from a connection's start, or a response's end, to the end of the next request's head."""
KEEP_ALIVE_SECONDS = 10
"""Seconds without a byte after a response."""
MAX_CONNECTIONS = 1_000
MAX_PER_ADDRESS = 200
"""A browser opens six to one server; a school class behind one address has about thirty."""
MAX_HEAD_BYTES = 32 * 1024
"""Browsers also send the cookies of programs on this machine's other ports."""


class Connection(H11Protocol):
    """An HTTP/1.1 connection that is closed if no request comes or too many are open."""

    head_seconds: float = HEAD_SECONDS
    max_per_address: int = MAX_PER_ADDRESS
    proxies: Collection[str] = ()
    """Addresses that many visitors share, which have no limit."""
    open_by_address: Counter[str]

    _address: str | None = None
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or close it at once if its address has too many."""
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        if host not in self.proxies:
            self._address = network_of(host)
            self.open_by_address[self._address] += 1
            if self.open_by_address[self._address] > self.max_per_address:
                transport.abort()
                return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        self._cancel_timer()
        if self._address is not None:
            self.open_by_address[self._address] -= 1
            if self.open_by_address[self._address] <= 0:
                del self.open_by_address[self._address]
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Receive bytes; once a request's head is complete, the app waits for its body."""
        super().data_received(data)
        if self._is_responding():
            self._cancel_timer()
        elif self._head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self._is_responding():
            self._await_head()

    def _is_responding(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._cancel_timer()
        if not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self.head_seconds, self._give_up)

    def _cancel_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if not self._is_responding():
            self.transport.abort()


def server_config(
    app: Any,
    proxies: Collection[str] = (),
    head_seconds: float = HEAD_SECONDS,
    max_per_address: int = MAX_PER_ADDRESS,
    **more: Any,
) -> uvicorn.Config:
    """Return the configuration of the web app's server.

    Args:
        proxies: Addresses of reverse proxies, the only ones whose X-Forwarded-For and
            X-Forwarded-Proto are used. Empty: these headers are ignored, even if the environment
            sets FORWARDED_ALLOW_IPS.
        head_seconds: How long a request's head may take; shorter in tests.
        max_per_address: Connections of one address at a time; fewer in tests.
        more: Further settings of uvicorn: host, port, log_level.
    """
    bounds = {
        "proxies": tuple(proxies),
        "open_by_address": Counter(),
        "head_seconds": head_seconds,
        "max_per_address": max_per_address,
    }
    settings: dict[str, Any] = {
        "http": type("Connection", (Connection,), bounds),
        "ws": "none",  # The guard closes every web socket; nothing here uses one.
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": list(proxies),
        "limit_concurrency": MAX_CONNECTIONS,
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "log_level": "warning",
    }
    return uvicorn.Config(app, **(settings | more))
