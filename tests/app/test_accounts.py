"""With accounts nothing is served before a login, and guessing passwords is slow."""

import asyncio
import dataclasses
import re
import time

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AuthenticationError
from support.serving import CHEAP, FETCH, PAGE, PASSWORD, cookie_line, serving, write_accounts

from nora_studio.app.server.accounts import (
    COST,
    Accounts,
    add_account,
    hash_password,
    password_matches,
    read_accounts,
)
from nora_studio.app.server.identity import SESSION_SECONDS, CookieSigner
from nora_studio.app.server.login_limits import (
    FREE_FAILURES,
    MAX_WAITING_ATTEMPTS,
    LoginRateLimiter,
)
from nora_studio.errors import StudioError

WHO = {"ada": PASSWORD, "bo": PASSWORD + "2"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("accounts") / "home", WHO) as running:
        yield running


def log_in(server, name="ada", password=PASSWORD, **form) -> tuple[httpx.Client, httpx.Response]:
    client = server.browser()
    data = {"username": name, "password": password, **form}
    headers = PAGE | {"origin": server.url}
    return client, client.post("/login", data=data, headers=headers)


def test_a_password_is_stored_as_a_slow_salted_hash():
    kept = hash_password(PASSWORD)
    assert PASSWORD not in kept and kept != hash_password(PASSWORD)
    began = time.perf_counter()
    assert password_matches(PASSWORD, kept)
    assert time.perf_counter() - began > 0.05
    assert not password_matches(PASSWORD + "x", kept)
    assert not password_matches("", kept) and not password_matches(PASSWORD, PASSWORD)
    assert kept.startswith("scrypt${}${}${}$".format(*COST))
    for length in (7, 257):
        with pytest.raises(StudioError, match="8 to 256"):
            hash_password("x" * length)


def test_an_account_is_added_and_its_password_changed(tmp_path):
    file = tmp_path / "deep" / "accounts.txt"
    add_account(file, "ada", PASSWORD)
    first = read_accounts(file)["ada"]
    file.write_text(file.read_text() + "# a remark\n")
    add_account(file, "bo", PASSWORD)
    add_account(file, "ada", "another password")
    kept = read_accounts(file)
    assert set(kept) == {"ada", "bo"} and kept["ada"] != first
    assert password_matches("another password", kept["ada"])
    assert "# a remark" in file.read_text() and PASSWORD not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    for name in ("", "a:b", "a b", "-a", "a\n", "../a", "a" * 65):
        with pytest.raises(StudioError, match="expected a name"):
            add_account(file, name, PASSWORD)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ada:secret password\n", "never a password itself"),
        ("ada:scrypt$x\n", "never a password itself"),
        ("ada\n", "name:hash"),
        ("", "no account"),
        ("# only a remark\n", "no account"),
        ("GOOD\nGOOD\n", "already has a line above"),
    ],
)
def test_a_malformed_accounts_file_is_refused_without_quoting_it(tmp_path, text, told):
    file = tmp_path / "accounts.txt"
    file.write_text(text.replace("GOOD", f"ada:{hash_password(PASSWORD, CHEAP)}"))
    with pytest.raises(StudioError, match=told) as caught:
        Accounts(file)
    assert "secret password" not in str(caught.value)
    with pytest.raises(StudioError, match="cannot be read"):
        Accounts(tmp_path / "nowhere")


def test_nothing_is_served_without_a_login(server):
    client = server.browser()
    for path in (
        "/config",
        "/theme.css",
        "/files/x.txt",
        "/gradio_api/info",
        "/nowhere",
        "/login/",
    ):
        answer = client.get(path, headers=FETCH)
        assert answer.status_code == 401 and answer.json() == {"detail": "Log in first."}
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/logout"):
        assert client.post(path, headers={"origin": server.url}).status_code == 401
    page = client.get("/?run=x", headers=PAGE)
    assert page.status_code == 303 and page.headers["location"] == "/login"
    deep = client.get("/files/a b.png", headers=PAGE)
    assert deep.headers["location"] == "/login?next=%2Ffiles%2Fa%2520b.png"
    form = client.get(deep.headers["location"])
    assert form.status_code == 200 and 'value="/files/a%20b.png"' in form.text
    assert not re.search(r"(src|href)=\"(?!data:,)", form.text) and "http" not in form.text
    assert not client.cookies
    with pytest.raises(AuthenticationError):
        Client(server.url, verbose=False, analytics_enabled=False)


def test_a_login_opens_the_accounts_own_folder_from_any_browser(server):
    one, answer = log_in(server)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    line = answer.headers["set-cookie"]
    assert "HttpOnly" in line and "SameSite=Strict" in line and PASSWORD not in line
    assert one.get("/", headers=PAGE).status_code == 200
    two, _ = log_in(server)
    other, _ = log_in(server, "bo", WHO["bo"])
    assert server.workspace(one) == server.workspace(two) != server.workspace(other)
    assert server.auth.account({"cookie": cookie_line(one)}) == "ada"
    # gradio_client's own way of logging in.
    client = Client(server.url, auth=("ada", PASSWORD), verbose=False, analytics_enabled=False)
    assert client.predict([], api_name="/who").split()[0] == server.workspace(one).folder.name
    with pytest.raises(AuthenticationError):
        Client(server.url, auth=("ada", "wrong password"), verbose=False)


@pytest.mark.parametrize("name", ["ada", "nobody", "", "<b>x</b>", "ada\x00", "ada:"])
def test_a_wrong_login_gives_the_same_message_for_every_name(server, name):
    client, answer = log_in(server, name, "not the password")
    assert answer.status_code == 401 and not client.cookies
    assert "name or the password is wrong" in answer.text and "<b>x" not in answer.text
    assert "not the password" not in answer.text


@pytest.mark.parametrize(
    ("next_path", "target"),
    [
        ("/files/a.png", "/files/a.png"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/\r\nset-cookie: x=1", "/"),
        ("", "/"),
    ],
)
def test_a_login_redirects_only_within_the_studio(server, next_path, target):
    _, answer = log_in(server, next=next_path)
    assert answer.headers["location"] == target


def test_a_login_from_another_site_is_refused(server):
    data = {"username": "ada", "password": PASSWORD}
    answer = server.browser().post("/login", data=data, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403


def test_a_logout_ends_every_copy_of_the_session(server):
    client, _ = log_in(server)
    stolen = cookie_line(client)
    assert server.raw("/config", stolen)[0] == 200
    answer = client.post("/logout", headers={"origin": server.url})
    assert answer.headers["location"] == "/login" and not client.cookies
    assert server.raw("/config", stolen)[0] == 401
    assert client.get("/logout", headers=FETCH).status_code == 401


def test_session_cookies_cannot_be_forged_or_extended_and_expire(server):
    client, _ = log_in(server)
    name, value = next(iter(client.cookies.items()))
    body, signature = value.rsplit(".", 1)
    own = server.auth.signer.read_session(value)
    assert own is not None and own.account == "ada"
    stranger = CookieSigner(b"x" * 32)

    def signed_with(signature: str, **changes: object) -> str:
        payload = list(dataclasses.asdict(dataclasses.replace(own, **changes)).values())
        return f"{stranger._sessions.dumps(payload).rpartition('.')[0]}.{signature}"

    assert signed_with(signature) == value
    foreign = stranger.new_session_cookie("ada", "proof")
    for forged in (
        signed_with(signature, expires=own.expires + 1),
        signed_with(signature, account="bob"),
        signed_with(signature, expires=10**4000),
        f"{body}.{signature[:-1]}{'A' if signature[-1] != 'A' else 'E'}",
        f"{body}.",
        body,
        f".{value}",  # The mark of a compressed body.
        foreign,
        "....",
        "é.1.2.3",
        value + ".",
    ):
        encoded = forged.encode().decode("latin-1")
        assert server.raw("/config", f"{name}={encoded}")[0] == 401
    signer, password_hash = server.auth.signer, "proof"
    session = signer.read_session(signer.new_session_cookie("ada", password_hash, now=1000.0))
    assert session is not None
    assert signer.is_valid(session, password_hash, now=1000.0 + SESSION_SECONDS - 1)
    for late in (0, 1, 1e6):
        assert not signer.is_valid(session, password_hash, now=1000.0 + SESSION_SECONDS + late)
    assert not signer.is_valid(session, "another hash", now=1000.0)
    assert signer.read_session(foreign) is None


def test_a_changed_password_and_a_removed_account_end_their_sessions(tmp_path):
    with serving(tmp_path / "home", WHO) as server:
        file = server.auth.accounts.file
        ada, bo = log_in(server)[0], log_in(server, "bo", WHO["bo"])[0]
        write_accounts(file, {"ada": "another password", "bo": WHO["bo"]})
        assert ada.get("/config").status_code == 401
        add_account(file, "cy", PASSWORD)
        file.write_text(
            "\n".join(line for line in file.read_text().splitlines() if "bo:" not in line)
        )
        assert bo.get("/config").status_code == 401
        assert log_in(server, "cy")[1].status_code == 303
        file.write_text("damaged")
        for _ in range(2):
            assert ada.get("/config").status_code == 401
            assert log_in(server, "ada", "another password")[1].status_code == 401


def test_wrong_passwords_cause_growing_delays():
    limiter, slept = LoginRateLimiter(0.01), []

    async def guess(count: int, name: str = "ada") -> list[bool | None]:
        answers = []
        for _ in range(count):
            began = time.perf_counter()
            answers.append(await limiter.attempt(name, "here", lambda: False))
            slept.append(time.perf_counter() - began)
        return answers

    asyncio.run(guess(FREE_FAILURES + 5))
    assert max(slept[:FREE_FAILURES]) < 0.01
    assert slept[-1] > 0.15 and slept[-1] > slept[-3] > slept[-5] >= 0.01


def test_guesses_queue_up_and_a_right_password_resets_the_delay():
    limiter = LoginRateLimiter(0.01)

    async def crowd() -> list[bool | None]:
        tries = [
            limiter.attempt("ada", "here", lambda: False) for _ in range(MAX_WAITING_ATTEMPTS + 6)
        ]
        answers = await asyncio.gather(*tries)
        assert await limiter.attempt("ada", "here", lambda: True)
        began = time.perf_counter()
        assert await limiter.attempt("ada", "here", lambda: False) is False
        assert time.perf_counter() - began < 0.01
        return answers

    answers = asyncio.run(crowd())
    assert answers.count(None) == 6 and answers.count(False) == MAX_WAITING_ATTEMPTS
