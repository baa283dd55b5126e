"""Authentication: identify visitors by their cookies.

Without accounts, a browser is identified by a random secret in a cookie that scripts cannot read.
Only the first page sets it: if every request did, several at once would each set another one, and
the browser would count as several visitors. A program that sends no cookie gets one with its first
response. With accounts, a login opens a session, and nothing is served without one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nora_studio.app.server.accounts import Accounts
from nora_studio.app.server.csrf import LOOPBACK_NAMES, check_host, is_loopback, is_subresource
from nora_studio.app.server.identity import (
    BROWSER_SECONDS,
    SESSION_SECONDS,
    CookieSigner,
    cookie_line,
    is_browser_secret,
    new_browser_secret,
    read_cookies,
)
from nora_studio.app.server.limits import QUOTA_BYTES
from nora_studio.app.server.upload_cache import UploadCache
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

MAX_LOGGED_OUT = 10_000
"""Logged-out sessions that are remembered."""
SESSION_EXPIRED = "Your session has expired. Reload the page to start a new one."


@dataclass(frozen=True)
class Visit:
    """The sender of a request."""

    visitor: str | None
    """32 hexadecimal digits; None: unknown, so there is no folder."""
    cookie: str | None = None
    """Name and value of the cookie that identifies the visitor, "name=value"."""
    is_new: bool = False
    """Whether the cookie still has to be sent to the browser or program."""


class Authenticator:
    """The identification of visitors by the cookies of their requests."""

    def __init__(
        self,
        home: Path,
        host: str = "127.0.0.1",
        accounts: Accounts | None = None,
        names: Collection[str] = (),
        quota: int = QUOTA_BYTES,
    ) -> None:
        """Authenticate the visitors of a data folder.

        Args:
            home: The studio's data folder.
            host: Address that the server listens on.
            accounts: None: no login; every browser gets a folder of its own.
            names: More host names that the server accepts, such as a proxy's.
            quota: Bytes that each visitor's folder may take.

        Raises:
            StudioError: other machines could connect without accounts, or the server's secret
                cannot be read or written.
        """
        check_host(host, accounts is not None)
        self.home = Path(home).expanduser().resolve()
        self.accounts, self.quota = accounts, quota
        self.signer = CookieSigner.load(self.home)
        self.uploads = UploadCache(self.home)
        self.hosts: frozenset[str] | None = None
        if is_loopback(host):
            self.hosts = LOOPBACK_NAMES | {host.strip("[]")} | set(names)
        elif names:
            self.hosts = frozenset(names)
        self._logged_out: dict[str, int] = {}

    def visitor(self, headers: Mapping[str, str]) -> str:
        """Identify the visitor behind a request that the guard let through, by Gradio's headers.

        Raises:
            StudioError: the request has no valid cookie of this server.
        """
        visit = self.identify([headers.get("cookie", "")])
        if visit.visitor is None:
            raise StudioError(SESSION_EXPIRED)
        return visit.visitor

    def workspace(self, headers: Mapping[str, str]) -> Workspace:
        """Return the visitor's own folder, created if needed.

        Raises:
            StudioError: the request has no valid cookie of this server.
        """
        return self.workspace_of(self.visitor(headers))

    def workspace_of(self, visitor: str) -> Workspace:
        """Return the folder of a visitor by their id, created if needed."""
        return Workspace.open(self.home, visitor, self.quota)

    def account(self, headers: Mapping[str, str]) -> str | None:
        """Return the name of the logged-in account, to show it; None without accounts."""
        value = read_cookies([headers.get("cookie", "")]).get(self.signer.session_cookie, "")
        return self._account(value)

    def identify(self, cookies: Collection[str]) -> Visit:
        """Identify the sender of a request by its Cookie lines."""
        found = read_cookies(cookies)
        if self.accounts is not None:
            name = self.signer.session_cookie
            account = self._account(found.get(name, ""))
            if account is None:
                return Visit(None)
            return Visit(self.signer.visitor_of_account(account), f"{name}={found[name]}")
        name = self.signer.browser_cookie
        value = found.get(name, "")
        if not is_browser_secret(value):
            return Visit(None)
        return Visit(self.signer.visitor_of_browser(value), f"{name}={value}")

    def receive(self, headers: Mapping[str, list[str]]) -> Visit:
        """Identify the sender of a request; without accounts, give a new one a secret."""
        visit = self.identify(headers.get("cookie", []))
        if visit.visitor is not None or self.accounts is not None or is_subresource(headers):
            return visit
        value = new_browser_secret()
        name = self.signer.browser_cookie
        return Visit(self.signer.visitor_of_browser(value), f"{name}={value}", is_new=True)

    def renewal_cookie(self, visit: Visit, is_https: bool) -> str:
        """Return the Set-Cookie line that renews a browser's secret."""
        name, _, value = (visit.cookie or "").partition("=")
        return cookie_line(name, value, BROWSER_SECONDS, is_https)

    def log_in(self, name: str, password: str, is_https: bool) -> str | None:
        """Return the Set-Cookie line of a new session; None: the name or the password is wrong."""
        if self.accounts is None or not self.accounts.check_password(name, password):
            return None
        value = self.signer.new_session_cookie(name, self.accounts.password_hash_of(name) or "")
        return cookie_line(self.signer.session_cookie, value, SESSION_SECONDS, is_https)

    def log_out(self, cookies: Collection[str], is_https: bool) -> str:
        """End the session, and return the Set-Cookie line that deletes its cookie.

        This process remembers it; after a restart, a stolen cookie is valid again until it expires
        or the account's password is changed.
        """
        value = read_cookies(cookies).get(self.signer.session_cookie, "")
        session = self.signer.read_session(value)
        if session is not None:
            self._logged_out[session.nonce] = session.expires
            while len(self._logged_out) > MAX_LOGGED_OUT:
                self._logged_out.pop(next(iter(self._logged_out)))
        return cookie_line(self.signer.session_cookie, "", 0, is_https)

    def _account(self, value: str) -> str | None:
        session = self.signer.read_session(value)
        if session is None or self.accounts is None:
            return None
        password_hash = self.accounts.password_hash_of(session.account)
        if (
            password_hash is None
            or session.nonce in self._logged_out
            or not self.signer.is_valid(session, password_hash)
        ):
            return None
        return session.account
