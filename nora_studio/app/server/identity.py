"""Visitors' ids and session cookies, derived from the server's secret.

The server stores nothing about a visitor: the id is derived from the browser's cookie, and a
session cookie carries its own signature. The server's secret is enough to forge either.
"""

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

from itsdangerous import BadData, URLSafeSerializer

from nora_studio.errors import StudioError

SECRET = "secret"
"""File in the studio's data folder."""
SECRET_BYTES = 32
BROWSER_SECONDS = 365 * 24 * 3600
"""How long a browser keeps its secret; every page renews it."""
SESSION_SECONDS = 7 * 24 * 3600
_BROWSER_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Session:
    """A login, as its cookie states it."""

    account: str
    expires: int
    """Seconds since 1970."""
    nonce: str
    """Different for each login."""
    password_state: str
    """Digest of the password's hash at login."""


class CookieSigner:
    """The signer of session cookies, which also derives visitors' ids, from the server's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._sessions = URLSafeSerializer(
            secret, salt="session", signer_kwargs={"digest_method": hashlib.sha256}
        )
        # Cookies are shared between ports: two studios on one machine need different names.
        suffix = self._digest("cookies", "")[:8]
        self.browser_cookie = f"nora_studio_browser_{suffix}"
        self.session_cookie = f"nora_studio_session_{suffix}"

    @classmethod
    def load(cls, home: Path) -> "CookieSigner":
        """Load the secret of a data folder, created once by whichever process comes first.

        Raises:
            StudioError: the file cannot be read or written, or is damaged.
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
        """Return 64 hexadecimal digits, which differ for each purpose."""
        content = f"{purpose}:{text}".encode()
        return hmac.new(self._secret, content, hashlib.sha256).hexdigest()

    def visitor_of_browser(self, browser_secret: str) -> str:
        """Return the 32 hexadecimal digits that name a browser's folder."""
        return self._digest("browser", browser_secret)[:32]

    def visitor_of_account(self, account: str) -> str:
        """Return the 32 hexadecimal digits that name an account's folder."""
        return self._digest("account", account)[:32]

    def new_session_cookie(self, account: str, password_hash: str, now: float | None = None) -> str:
        """Return a cookie's value for a new login.

        Args:
            password_hash: The stored hash of the account's password; when it changes, the session
                becomes invalid.
        """
        expires = int(time.time() if now is None else now) + SESSION_SECONDS
        state = self._password_state(password_hash)
        return self._sessions.dumps([account, expires, secrets.token_hex(8), state])

    def read_session(self, value: str) -> Session | None:
        """Return the session of a cookie's value; None if this server did not sign it."""
        try:
            return Session(*self._sessions.loads(value))  # Verified before anything is parsed.
        except BadData:
            return None

    def is_valid(self, session: Session, password_hash: str, now: float | None = None) -> bool:
        """Return whether a session has not expired, and its account's password is the same."""
        is_same = hmac.compare_digest(session.password_state, self._password_state(password_hash))
        return is_same and session.expires > (time.time() if now is None else now)

    def _password_state(self, password_hash: str) -> str:
        return self._digest("password", password_hash)[:32]


def write_once(file: Path, content: bytes) -> None:
    """Write a private file, unless another process has written it first."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link does not replace a file of another process.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, file)
    finally:
        fresh.unlink(missing_ok=True)


def new_browser_secret() -> str:
    """Return 256 random bits as a cookie's value."""
    return secrets.token_urlsafe(32)


def is_browser_secret(value: str) -> bool:
    """Return whether a cookie's value has the form of a browser's secret."""
    return _BROWSER_SECRET.fullmatch(value) is not None


def read_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Read cookies by name from a request's Cookie lines; of several of one name, the first.

    The standard library's reader returns nothing if one cookie of another program is malformed.
    """
    found: dict[str, str] = {}
    for line in lines:
        for pair in line.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals:
                found.setdefault(name.strip(), value.strip().strip('"'))
    return found


def cookie_line(name: str, value: str, seconds: int, is_https: bool) -> str:
    """Return a Set-Cookie line that no script can read and no other site can make browsers send."""
    secure = "; Secure" if is_https else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
