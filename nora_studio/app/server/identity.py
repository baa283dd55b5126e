"""Who a visitor is: a secret of the server's, one of the browser's, and what the first makes of it.

Nothing here is kept of anybody: a visitor's number follows from what their browser sends, and a
session is its own proof. Whoever has the server's secret could make either.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nora_studio.errors import StudioError

SECRET = "secret"
"""File in the studio's data folder."""
SECRET_BYTES = 32
BROWSER_SECONDS = 365 * 24 * 3600
"""For how long a browser keeps its secret; every page renews it."""
SESSION_SECONDS = 7 * 24 * 3600
_BROWSER_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Session:
    """A login, as its cookie says it."""

    account: str
    expires: int
    """Seconds since 1970."""
    mark: str
    """Different for each login."""


class CookieSigner:
    """Signs session cookies and derives visitors' numbers, by the server's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # Cookies know no ports: two studios on one machine must not take each other's.
        suffix = self._digest("cookies", "")[:8]
        self.browser_cookie = f"nora_studio_browser_{suffix}"
        self.session_cookie = f"nora_studio_session_{suffix}"

    @classmethod
    def of(cls, home: Path) -> "CookieSigner":
        """That of a data folder, made once, whichever process comes first.

        Raises:
            StudioError: it cannot be written, or is damaged.
        """
        file = home / SECRET
        try:
            home.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not file.exists():
                write_once(file, secrets.token_bytes(SECRET_BYTES))
            file.chmod(0o600)
            secret = file.read_bytes()
        except OSError as error:
            raise StudioError(
                f"{file} cannot be read or written: {error.strerror or error}. Make the folder "
                "writable, or name another data folder."
            ) from error
        if len(secret) != SECRET_BYTES:
            raise StudioError(
                f"{file} should hold {SECRET_BYTES} bytes; it holds {len(secret)}. Restore it from "
                "a copy: with another secret, no browser finds its folder again."
            )
        return cls(secret)

    def _digest(self, purpose: str, text: str) -> str:
        """64 hexadecimal digits; each purpose has its own, so that none passes for another."""
        content = f"{purpose}:{text}".encode()
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    def visitor_of_browser(self, browser_secret: str) -> str:
        """The 32 hexadecimal digits that a browser's folder is called by."""
        return self._digest("browser", browser_secret)[:32]

    def visitor_of_account(self, account: str) -> str:
        """The same for an account: any browser that it logs in from."""
        return self._digest("account", account)[:32]

    def open_session(self, account: str, proof: str, now: float | None = None) -> str:
        """A cookie's value for a login.

        Args:
            proof: What the account's password is checked by; after a change of it the session is
                no longer good.
        """
        expires = int(time.time() if now is None else now) + SESSION_SECONDS
        name = base64.urlsafe_b64encode(account.encode()).decode().rstrip("=")
        body = f"{name}.{expires}.{secrets.token_hex(8)}"
        return f"{body}.{self._digest('session', f'{body}:{proof}')}"

    def read_session(self, value: str) -> tuple[Session, str] | None:
        """What a cookie claims, and its signature; `is_signed` tells whether to believe it."""
        try:
            name, expires, mark, signature = value.split(".")
            account = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
            return Session(account, int(expires), mark), signature
        except ValueError:
            return None

    def is_signed(self, value: str, proof: str, now: float | None = None) -> bool:
        """Whether a session was opened here, under the password of now, and is not over."""
        found = self.read_session(value)
        if found is None:
            return False
        session, signature = found
        expected = self._digest("session", f"{value.rpartition('.')[0]}:{proof}")
        is_ours = hmac.compare_digest(signature.encode(), expected.encode())
        return is_ours and session.expires > (time.time() if now is None else now)


def write_once(file: Path, content: bytes) -> None:
    """Write a private file that nobody else has written first."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link does not take the place of what another process has put there.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


def new_browser_secret() -> str:
    """256 random bits as a cookie's value."""
    return secrets.token_urlsafe(32)


def is_browser_secret(value: str) -> bool:
    """Whether a cookie's value has the shape of one; any other is nobody's."""
    return _BROWSER_SECRET.fullmatch(value) is not None


def read_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Cookies by name from a request's Cookie lines; of several of one name, the first.

    Not the standard library's reader: one odd cookie of another program hides all from it.
    """
    found: dict[str, str] = {}
    for line in lines:
        for pair in line.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals:
                found.setdefault(name.strip(), value.strip().strip('"'))
    return found


def cookie_line(name: str, value: str, seconds: int, is_https: bool) -> str:
    """A Set-Cookie line that no script reads and no other site has sent."""
    secure = "; Secure" if is_https else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
