"""Authentication: who a visitor is, and the cookies that say so.

Without accounts a browser is known by a random secret in a cookie that no script can read. Its
first page brings it, and nothing else that the browser fetches does: of several requests at once
each would bring another, and the browser would be several people. A program that sends no cookie
gets one with its first answer. With accounts, a login opens a session; nothing is seen without one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from nora_studio.app.server.accounts import Accounts
from nora_studio.app.server.csrf import LOOPBACK_NAMES, check_host, is_browsers_own, is_loopback
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

MOST_ENDED = 10_000
"""Sessions that were logged out of and are remembered."""
SESSION_EXPIRED = "Your session has expired. Reload the page to start a new one."


@dataclass(frozen=True)
class Visit:
    """Who sends a request."""

    visitor: str | None
    """32 hexadecimal digits; None: nobody whose folder could be told."""
    cookie: str | None = None
    """Name and value of the cookie that says so, "name=value"."""
    is_new: bool = False
    """Whether the cookie has yet to be given to the browser or program."""


class Authenticator:
    """Identifies visitors by the cookies of their requests."""

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
            accounts: None: whoever opens the page is let in, and has a folder of their own.
            names: Further host names that the server answers to, such as a proxy's.
            quota: Bytes that each visitor's folder may take.

        Raises:
            StudioError: other machines could come in without accounts, or the server's secret
                cannot be had.
        """
        check_host(host, accounts is not None)
        self.home = Path(home).expanduser().resolve()
        self.accounts, self.quota = accounts, quota
        self.signer = CookieSigner.of(self.home)
        self.uploads = UploadCache(self.home)
        self.hosts: frozenset[str] | None = None
        if is_loopback(host):
            self.hosts = LOOPBACK_NAMES | {host.strip("[]")} | set(names)
        elif names:
            self.hosts = frozenset(names)
        self._ended: dict[str, int] = {}

    def visitor(self, headers: Mapping[str, str]) -> str:
        """Identify the visitor behind a request that the guard let through, by Gradio's headers.

        Raises:
            StudioError: the request bears no cookie of this server's.
        """
        visit = self.identify([headers.get("cookie", "")])
        if visit.visitor is None:
            raise StudioError(SESSION_EXPIRED)
        return visit.visitor

    def workspace(self, headers: Mapping[str, str]) -> Workspace:
        """The visitor's own folder, made if need be.

        Raises:
            StudioError: the request bears no cookie of this server's.
        """
        return self.workspace_of(self.visitor(headers))

    def workspace_of(self, visitor: str) -> Workspace:
        """The folder of a visitor by their number, made if need be."""
        return Workspace.of(self.home, visitor, self.quota)

    def account(self, headers: Mapping[str, str]) -> str | None:
        """The name a visitor has logged in by, to show it; None without accounts."""
        value = read_cookies([headers.get("cookie", "")]).get(self.signer.session_cookie, "")
        return self._account(value)

    def identify(self, cookies: Collection[str]) -> Visit:
        """Who sends a request with these Cookie lines."""
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
        """Who sends a request; without accounts, whoever is not known yet gets a secret."""
        visit = self.identify(headers.get("cookie", []))
        if visit.visitor is not None or self.accounts is not None or is_browsers_own(headers):
            return visit
        value = new_browser_secret()
        name = self.signer.browser_cookie
        return Visit(self.signer.visitor_of_browser(value), f"{name}={value}", is_new=True)

    def renewed(self, visit: Visit, is_https: bool) -> str:
        """The Set-Cookie line that makes a browser keep its secret, or keep it longer."""
        name, _, value = (visit.cookie or "").partition("=")
        return cookie_line(name, value, BROWSER_SECONDS, is_https)

    def log_in(self, name: str, password: str, is_https: bool) -> str | None:
        """The Set-Cookie line of a new session; None: no such account, or not its password."""
        if self.accounts is None or not self.accounts.admits(name, password):
            return None
        value = self.signer.open_session(name, self.accounts.proof_of(name) or "")
        return cookie_line(self.signer.session_cookie, value, SESSION_SECONDS, is_https)

    def log_out(self, cookies: Collection[str], is_https: bool) -> str:
        """End the session for good, and give back the line that takes its cookie away.

        It is remembered by this process; after a restart, a stolen cookie is good until it expires
        or the account's password is changed.
        """
        value = read_cookies(cookies).get(self.signer.session_cookie, "")
        if self._account(value) is not None:
            found = self.signer.read_session(value)
            assert found is not None
            self._ended[found[0].mark] = found[0].expires
            while len(self._ended) > MOST_ENDED:
                self._ended.pop(next(iter(self._ended)))
        return cookie_line(self.signer.session_cookie, "", 0, is_https)

    def _account(self, value: str) -> str | None:
        found = self.signer.read_session(value) if self.accounts is not None else None
        if found is None or self.accounts is None:
            return None
        session = found[0]
        proof = self.accounts.proof_of(session.account)
        if proof is None or session.mark in self._ended or not self.signer.is_signed(value, proof):
            return None
        return session.account
