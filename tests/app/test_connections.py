"""Idle connections, slow bodies and forged addresses do not affect other visitors."""

import contextlib
import itertools
import socket
import threading
import time

import httpx
import pytest
from support.serving import PASSWORD, cookie_line, serving

from nora_studio.app.server.connections import Connection, server_config
from nora_studio.app.server.guard import UPLOAD_ROUTE
from nora_studio.app.server.login_limits import LoginRateLimiter
from nora_studio.app.server.request_body import BodyPace

WHO = {"ada": PASSWORD}
SOON = 0.4
"""Seconds that stand for the limits of the real server here."""


@pytest.fixture
def server(tmp_path):
    """The real limits on time, shorter."""
    pace = BodyPace(idle_seconds=SOON, start_seconds=SOON)
    with serving(tmp_path / "home", connections={"head_seconds": SOON}, pace=pace) as running:
        yield running


def connect(server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


def begun(server, client: httpx.Client, length: int, path: str = UPLOAD_ROUTE) -> bytes:
    """A request's head, and of an upload the beginning of its file."""
    kind, body = "application/json", ""
    if path == UPLOAD_ROUTE:
        kind = "multipart/form-data; boundary=xyz"
        body = '--xyz\r\ncontent-disposition: form-data; name="files"; filename="a.bin"\r\n\r\n'
    lines = [f"POST {path} HTTP/1.1", f"host: 127.0.0.1:{server.port}"]
    lines += [f"cookie: {cookie_line(client)}", f"content-type: {kind}"]
    return "\r\n".join([*lines, f"content-length: {length}", "", body]).encode()


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_a_connection_without_a_whole_request_is_closed(server, sent):
    began = time.monotonic()
    with connect(server) as connection:
        connection.sendall(sent)
        assert b"200" not in answer_of(connection)
    assert time.monotonic() - began < 10 * SOON


def test_a_head_that_arrives_byte_by_byte_is_cut_off(server):
    with connect(server) as connection, pytest.raises(OSError):
        for letter in b"GET / HTTP/1.1\r\nhost: " + b"x" * 1000:
            connection.sendall(bytes([letter]))
            time.sleep(SOON / 20)


def test_a_second_request_on_a_connection_has_the_same_time_limit(server):
    with connect(server) as connection:
        connection.sendall(b"GET /theme.css HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HT")  # After this uvicorn itself would wait for ever.
        began = time.monotonic()
        answer_of(connection)
        assert time.monotonic() - began < 10 * SOON


@pytest.mark.parametrize("gap", [SOON * 3, SOON / 8])
@pytest.mark.parametrize("path", ["/gradio_api/run/who", UPLOAD_ROUTE])
def test_a_slow_body_is_cut_off(server, gap, path):
    client, _ = server.visitor()
    with connect(server) as connection:
        connection.sendall(begun(server, client, 10_000, path))
        began, cut = time.monotonic(), threading.Event()

        def drip() -> None:  # Nothing for a while, or ten bytes at a time without end.
            with contextlib.suppress(OSError):
                while not cut.wait(gap):
                    connection.sendall(b"x" * 10)

        threading.Thread(target=drip, daemon=True).start()
        answer = answer_of(connection)
        cut.set()
    assert answer.startswith(b"HTTP/1.1 408") and b"too slowly" in answer
    assert time.monotonic() - began < 10 * SOON
    assert client.get("/theme.css").status_code == 200


def test_a_long_response_and_a_quick_body_are_not_cut_off(server):
    client, _ = server.visitor()
    with connect(server) as connection:
        # An event stream stays open while nothing comes from the browser.
        lines = ["GET /gradio_api/heartbeat/a HTTP/1.1", "host: localhost"]
        lines += [f"cookie: {cookie_line(client)}", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        connection.settimeout(4 * SOON)
        with pytest.raises(TimeoutError):
            while connection.recv(65536):
                pass
    files = {"files": ("a.bin", b"x" * 5_000_000)}
    assert client.post(UPLOAD_ROUTE, files=files).status_code == 200


def test_one_address_takes_no_more_than_its_share_of_the_connections(tmp_path):
    few = {"max_per_address": 3, "head_seconds": 60.0}  # A head that does not come closes none.
    with serving(tmp_path / "home", connections=few) as server:
        held = [connect(server) for _ in range(3)]
        with connect(server) as refused:
            refused.settimeout(10)
            assert answer_of(refused) == b""
        held[0].settimeout(0.5)
        with pytest.raises(TimeoutError):
            held[0].recv(1)
        for one in held:
            one.close()
        time.sleep(0.1)
        assert httpx.get(f"{server.url}/theme.css").status_code == 200


def test_two_uploads_at_once_that_go_beyond_the_quota_are_not_both_let_in(tmp_path):
    with serving(tmp_path / "home", quota=1_000_000, small_upload_bytes=0) as server:
        client, _ = server.visitor()
        with connect(server) as first:
            # The first holds what it says that it will send, though little of it has come.
            first.sendall(begun(server, client, 700_000))
            until = time.monotonic() + 10
            while not server.auth.uploads._reserved and time.monotonic() < until:
                time.sleep(0.01)
            files = {"files": ("b.bin", b"x" * 600_000)}
            answer = client.post(UPLOAD_ROUTE, files=files)
            assert answer.status_code == 413 and "and your other uploads are" in answer.text
            # A length that is not told is counted as it comes.
            pieces = (b"x" * 50_000 for _ in range(12))
            kind = {"content-type": "multipart/form-data; boundary=xyz"}
            start = begun(server, client, 0).partition(b"\r\n\r\n")[2]
            unstated = client.post(
                UPLOAD_ROUTE, content=itertools.chain([start], pieces), headers=kind
            )
            assert unstated.status_code == 413 and "and your other uploads are" in unstated.text
        while server.auth.uploads._reserved and time.monotonic() < until:
            time.sleep(0.01)
        assert client.post(UPLOAD_ROUTE, files=files).status_code == 200


class WatchedLimiter(LoginRateLimiter):
    """Notes the addresses that logins are counted under."""

    def __init__(self) -> None:
        super().__init__(time_scale=0)
        self.seen: list[str] = []

    async def attempt(self, name, address, check):
        self.seen.append(address)
        return await super().attempt(name, address, check)


def addresses_seen(tmp_path, monkeypatch, proxies: tuple[str, ...], *forwarded: str) -> list[str]:
    """The addresses that logins are counted under, where requests say they come from elsewhere."""
    limiter = WatchedLimiter()
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serving(tmp_path / "home", WHO, proxies=proxies, limiter=limiter) as server:
        for text in forwarded:
            headers = {"origin": server.url, "x-forwarded-for": text, "x-forwarded-proto": "https"}
            data = {"username": "ada", "password": PASSWORD}
            answer = httpx.post(f"{server.url}/login", data=data, headers=headers)
            assert ("Secure" in answer.headers.get("set-cookie", "")) == bool(proxies)
    return limiter.seen


def test_forwarded_headers_are_ignored_without_a_proxy(tmp_path, monkeypatch):
    seen = addresses_seen(tmp_path, monkeypatch, (), "10.0.0.1", "10.0.0.2", "::1")
    assert seen == ["127.0.0.1"] * 3


def test_only_a_named_proxys_own_header_is_believed(tmp_path, monkeypatch):
    forwarded = ("10.0.0.1", "10.9.9.9, 10.0.0.2")
    seen = addresses_seen(tmp_path, monkeypatch, ("127.0.0.1",), *forwarded)
    assert seen == ["10.0.0.1", "10.0.0.2"]
    elsewhere = addresses_seen(tmp_path, monkeypatch, (), "10.0.0.1")
    assert elsewhere == ["127.0.0.1"]


def test_the_started_server_has_the_limits(monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    config = server_config(lambda: None, host="127.0.0.1", port=1)
    assert not config.proxy_headers and config.limit_concurrency and config.timeout_keep_alive <= 20
    assert isinstance(config.http, type) and issubclass(config.http, Connection)
    assert config.h11_max_incomplete_event_size
