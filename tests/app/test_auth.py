"""Visitors are kept apart, requests from other sites are refused, and uploads stay private."""

import asyncio
import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from gradio_client import Client, handle_file
from support.serving import FETCH, PAGE, cookie_line, serving

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.csrf import check_host
from nora_studio.app.server.guard import MAX_BODY_BYTES
from nora_studio.app.server.identity import SECRET, CookieSigner, read_cookies, write_once
from nora_studio.app.server.session_ownership import MAX_SESSIONS, SessionOwners
from nora_studio.errors import StudioError

VISITOR = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("door") / "home") as running:
        yield running


def gradio(server, **options) -> Client:
    return Client(server.url, verbose=False, analytics_enabled=False, **options)


def test_a_secret_is_created_once_and_is_private(tmp_path):
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as pool:
        signers = list(pool.map(lambda _: CookieSigner.load(home), range(16)))
    assert len({signer.visitor_of_browser("a") for signer in signers}) == 1
    assert stat.S_IMODE((home / SECRET).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [file.name for file in home.iterdir()] == [SECRET]
    kept = (home / SECRET).read_bytes()
    write_once(home / SECRET, b"of a process that comes second!!")
    assert (home / SECRET).read_bytes() == kept and len(list(home.iterdir())) == 1
    (home / SECRET).chmod(0o644)
    CookieSigner.load(home)
    assert stat.S_IMODE((home / SECRET).stat().st_mode) == 0o600
    (home / SECRET).write_bytes(b"short")
    with pytest.raises(StudioError, match="should hold 32 bytes"):
        CookieSigner.load(home)


def test_a_visitor_is_recognised_after_a_restart_and_not_with_another_secret(tmp_path):
    first, again, other = (Authenticator(tmp_path / name) for name in ("a", "a", "b"))
    value = "x" * 43
    line = {"cookie": f"{first.signer.browser_cookie}={value}"}
    assert VISITOR.fullmatch(first.visitor(line))
    assert first.visitor(line) == again.visitor(line)
    assert first.signer.browser_cookie != other.signer.browser_cookie
    with pytest.raises(StudioError, match="Reload the page to start a new one"):
        other.visitor(line)
    assert value not in first.visitor(line)


def test_the_first_page_sets_the_cookie_and_its_subrequests_do_not(server):
    client = server.browser()
    assert "set-cookie" not in client.get("/theme.css", headers=FETCH).headers
    assert not client.cookies
    page = client.get("/", headers=PAGE)
    line = page.headers["set-cookie"]
    assert "HttpOnly" in line and "SameSite=Strict" in line and "Path=/" in line
    assert page.headers["cache-control"] == "no-store"
    value = next(iter(client.cookies.values()))
    assert len(value) == 43 and value not in page.text
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.get("/theme.css", headers=FETCH), range(16)))
    assert all("set-cookie" not in answer.headers for answer in answers)
    assert client.get("/", headers=PAGE).headers["set-cookie"].split(";")[0].endswith(value)


def test_only_a_page_gives_a_visitor_without_a_cookie_a_new_one(server):
    body = {"data": [None], "fn_index": 0, "session_hash": "lost"}
    answer = server.browser().post("/gradio_api/queue/join", json=body, headers=FETCH)
    assert answer.status_code == 401 and "Reload the page to start a new one" in answer.text
    assert "set-cookie" not in answer.headers


def test_a_link_from_another_site_does_not_make_a_new_visitor(server):
    headers = PAGE | {"sec-fetch-site": "cross-site"}
    answer = server.browser().get("/", headers=headers)
    assert "set-cookie" not in answer.headers and 'http-equiv="refresh"' in answer.text
    client, _ = server.visitor()
    assert "gradio" in client.get("/", headers=headers).text


def test_every_program_is_a_visitor_of_its_own_and_stays_the_same(server):
    clients = [gradio(server) for _ in range(3)]
    names = [client.predict([], api_name="/who").split()[0] for client in clients for _ in range(2)]
    assert all(VISITOR.fullmatch(name) for name in names)
    assert len(set(names)) == 3 and names[0] == names[1]
    bare = httpx.post(f"{server.url}/gradio_api/run/who", json={"data": [None]}).json()["data"]
    assert bare[0].split()[0] not in names


@pytest.mark.parametrize(
    "line",
    ["a=b; {0}=x", "{0}=" + "x" * 42, "{0}=" + "x" * 44, "{0}=" + "x" * 42 + "/", "{0}", ""],
)
def test_a_malformed_cookie_identifies_no_visitor(tmp_path, line):
    auth = Authenticator(tmp_path)
    with pytest.raises(StudioError, match="Reload the page to start a new one"):
        auth.visitor({"cookie": line.format(auth.signer.browser_cookie)})


def test_cookies_of_other_programs_do_not_hide_a_visitor():
    assert read_cookies(["[x]=}{; a=1", "b=2; a=3; =; c"]) == {"[x]": "}{", "a": "1", "b": "2"} | {
        "": ""
    }


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil"])
def test_requests_for_a_foreign_host_name_are_refused(server, host):
    assert server.raw("/", host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "localhost:9000"])
def test_this_machines_own_names_are_accepted_on_any_port(server, host):
    assert server.raw("/theme.css", host=host)[0] == 200


def test_requests_from_other_sites_are_refused(server):
    client, _ = server.visitor()
    body = {"data": [None], "fn_index": 0, "session_hash": "x"}
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://127.0.0.1", "x:["):
        answer = client.post("/gradio_api/queue/join", json=body, headers={"origin": origin})
        assert answer.status_code == 403, origin
        assert client.get("/config", headers={"origin": origin}).status_code == 403
    for site in ("cross-site", "same-site"):
        for mode in ("cors", "no-cors", "navigate"):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
            assert client.post("/gradio_api/queue/join", json=body, headers=headers).is_error
            if mode != "navigate":
                assert client.get("/config", headers=headers).status_code == 403
        framed = PAGE | {"sec-fetch-site": site, "sec-fetch-dest": "iframe"}
        assert client.get("/", headers=framed).status_code == 403
    own = {"origin": server.url, **FETCH}
    assert client.post("/gradio_api/queue/join", json=body, headers=own).status_code == 200


def test_every_response_forbids_outside_hosts(server):
    client, _ = server.visitor()
    for path in ("/", "/theme.css", "/nowhere", "/gradio_api/file=/etc/hostname", "/files/x"):
        headers = client.get(path).headers
        assert "default-src" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_an_upload_belongs_to_its_owner_alone(server, tmp_path):
    (tmp_path / "mine.txt").write_text("my very own")
    mine, other = gradio(server), gradio(server)
    name, claimed = mine.predict([handle_file(tmp_path / "mine.txt")], api_name="/who").split()
    assert claimed == "mine.txt"
    path = next(server.auth.uploads.folder.rglob("mine.txt"))
    fetch = f"{server.url}/gradio_api/file={path}"
    assert httpx.get(fetch, cookies=mine.cookies).text == "my very own"
    assert httpx.get(fetch, cookies=other.cookies).status_code == 404
    assert httpx.get(fetch).status_code == 404
    for spelled in (f"{path.parent}/../{path.parent.name}/mine.txt", f"/{path}"):
        url = f"/gradio_api/file={spelled}"
        assert server.raw(url, cookie_line(httpx.Client(cookies=other.cookies)))[0] == 404
    for meta in ({"meta": {"_type": "gradio.FileData"}}, {}):
        body = {"data": [[{"path": str(path), **meta}]]}
        answer = httpx.post(f"{server.url}/gradio_api/run/who", json=body, cookies=other.cookies)
        assert answer.status_code == 403 and "This upload has expired" in answer.text
    # The same content, uploaded by both, is both's; what one gives back, the other still has.
    assert other.predict([handle_file(tmp_path / "mine.txt")], api_name="/who").split()[1]
    server.auth.uploads.release(name, str(path))
    assert httpx.get(fetch, cookies=other.cookies).status_code == 200
    assert httpx.get(fetch, cookies=mine.cookies).status_code == 404


@pytest.mark.parametrize("path", ["/etc/hostname", "http://evil.example/x", "SECRET", "C:\\x"])
def test_a_handler_is_given_no_path_that_was_not_uploaded(server, path):
    path = str(server.auth.home / "secret") if path == "SECRET" else path
    client, _ = server.visitor()
    body = {"data": [[{"path": path, "meta": {"_type": "gradio.FileData"}}]]}
    assert client.post("/gradio_api/run/who", json=body).status_code == 403
    assert client.get(f"/gradio_api/file={path}").status_code == 404
    with pytest.raises(StudioError, match="this upload has expired"):
        server.auth.uploads.claim("0" * 32, path)


def test_uploads_expire_and_then_have_no_owner(server, tmp_path):
    (tmp_path / "old.txt").write_text("old")
    client = gradio(server)
    client.predict([handle_file(tmp_path / "old.txt")], api_name="/who")
    path = next(server.auth.uploads.folder.rglob("old.txt"))
    server.auth.uploads.clear_old(3600)
    assert path.is_file()
    server.auth.uploads.clear_old(-1)
    assert not path.exists() and not path.parent.exists() and path.parent.parent.is_dir()
    url = f"{server.url}/gradio_api/file={path}"
    assert httpx.get(url, cookies=client.cookies).status_code == 404
    assert stat.S_IMODE(server.auth.uploads.folder.stat().st_mode) == 0o700


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(server):
    client, _ = server.visitor()
    large = json.dumps({"data": ["x" * MAX_BODY_BYTES]}).encode()
    kind = {"content-type": "application/json"}
    for content in (large, (large[i : i + 65536] for i in range(0, len(large), 65536))):
        answer = client.post("/gradio_api/run/who", content=content, headers=kind)
        assert answer.status_code == 413
    assert client.post("/gradio_api/run/who", json={"data": [None]}).status_code == 200


def test_a_session_belongs_to_the_visitor_who_began_it(server):
    (mine, _), (other, _) = server.visitor(), server.visitor()
    body = {"data": [None], "fn_index": 0, "session_hash": "abcdef"}
    assert mine.post("/gradio_api/queue/join", json=body).status_code == 200
    assert other.post("/gradio_api/queue/join", json=body).status_code == 403
    assert other.get("/gradio_api/queue/data?session_hash=abcdef").status_code == 403
    assert other.get("/gradio_api/heartbeat/abcdef").status_code == 403
    with mine.stream("GET", "/gradio_api/queue/data?session_hash=abcdef") as answer:
        assert "process_completed" in "".join(answer.iter_text())
    sessions = SessionOwners()
    assert sessions.claim("first", "a")
    for number in range(MAX_SESSIONS):
        sessions.claim(str(number), "b")
    assert sessions.claim("first", "b")


@pytest.mark.parametrize(
    "path", ["proxy=https://evil.example", "stream/x/y/z/playlist.m3u8", "vibe-code/", "runs"]
)
def test_routes_that_nothing_here_uses_are_closed(server, path):
    client, _ = server.visitor()
    assert client.get(f"/gradio_api/{path}").status_code == 404


def test_a_web_socket_is_closed(tmp_path):
    from nora_studio.app.server.guard import Guard

    async def never(*_) -> NoReturn:
        raise AssertionError("the app was reached")

    sent: list = []

    async def send(message) -> None:
        sent.append(message)

    guard = Guard(never, Authenticator(tmp_path))
    asyncio.run(guard({"type": "websocket", "path": "/", "headers": []}, never, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "studio.example", ""])
def test_other_machines_need_accounts(tmp_path, host):
    with pytest.raises(StudioError, match="--auth"):
        Authenticator(tmp_path, host=host)
    check_host(host, has_accounts=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_this_machine_needs_no_accounts(tmp_path, host):
    assert Path(Authenticator(tmp_path, host=host).home).is_dir()
