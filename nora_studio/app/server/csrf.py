"""Which requests are this studio's own page's, and what a browser may do with the answers.

A page of another site can make a browser send requests here: by a form, by a script, or by a name
that it lets point to this machine (DNS rebinding). Sources: the Fetch Metadata guide at
web.dev/articles/fetch-metadata; RFC 6454 for Origin.
"""

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from nora_studio.errors import StudioError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
READING = frozenset({"GET", "HEAD"})
_FRAMES = frozenset({"iframe", "frame", "embed", "object", "fencedframe"})

PAGE_HEADERS = {
    # Gradio's page has inline scripts and styles, and compiles what its HTML blocks bring along.
    "content-security-policy": "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "media-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self' data: blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    # To nobody else; by "no-referrer" browsers would also hide a form's Origin from this server.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""For what a visitor's own files are served with: whatever they hold, nothing in them runs."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, has_accounts: bool) -> None:
    """Refuse to be reachable from elsewhere without accounts.

    Raises:
        StudioError: others could come in, and nothing tells them apart but a cookie.
    """
    if not is_loopback(host) and not has_accounts:
        raise StudioError(
            f"--host {host} lets other machines in, which needs accounts: add --auth FILE (made "
            "with --add-account), or leave --host out."
        )


def refusal(
    method: str, headers: Mapping[str, list[str]], hosts: Collection[str] | None
) -> str | None:
    """Why a request is not answered; None where it is.

    Args:
        headers: Values by small-letter name.
        hosts: Names that this server answers to; None: any.
    """
    named = headers.get("host", [])
    if len(named) != 1:
        return f"Expected one Host header; got {len(named)}."
    host = named[0].lower()
    if hosts is not None and _without_port(host) not in hosts:
        return "The studio does not answer to this host name. Open it as localhost."
    origin = headers.get("origin", [None])[-1]
    site = headers.get("sec-fetch-site", [None])[-1]
    if origin is not None and not _is_own(origin, host):
        return "This request came from another site. Open the studio itself."
    if site in (None, "same-origin", "none"):
        return None
    # Another site may link to the studio, and no more.
    is_link = headers.get("sec-fetch-mode", [""])[-1] == "navigate" and method in READING
    if is_link and headers.get("sec-fetch-dest", [""])[-1] not in _FRAMES:
        return None
    return "This request came from another site. Open the studio itself."


def _is_own(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin.lower()).netloc == host
    except ValueError:
        return False


def _without_port(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_cross_site_link(headers: Mapping[str, list[str]]) -> bool:
    """Whether somebody followed a link from elsewhere: then the browser held its cookies back."""
    site = headers.get("sec-fetch-site", [""])[-1]
    mode = headers.get("sec-fetch-mode", [""])[-1]
    return mode == "navigate" and site in ("cross-site", "same-site")


def is_browsers_own(headers: Mapping[str, list[str]]) -> bool:
    """Whether a page fetched this by itself, as against a person who opens a page, or a program."""
    mode = headers.get("sec-fetch-mode", [None])[-1]
    return mode is not None and mode != "navigate"
