"""Protection against requests from other sites (CSRF), and the security headers of responses.

A page of another site can make a browser send requests here: by a form, a script, or a host name
that it points to this machine (DNS rebinding). Sources: the Fetch Metadata guide at
web.dev/articles/fetch-metadata; RFC 6454 for Origin.
"""

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from nora_studio.errors import StudioError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
_FRAMES = frozenset({"iframe", "frame", "embed", "object", "fencedframe"})

PAGE_HEADERS = {
    # Gradio's page has inline scripts and styles, and compiles the scripts of its HTML blocks.
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
    # Not "no-referrer": browsers would then hide a form's Origin from this server as well.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"
"""The policy for visitors' own files: whatever they contain, no script in them runs."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, has_accounts: bool) -> None:
    """Refuse to listen to other machines without accounts.

    Raises:
        StudioError: other machines could connect, and there are no accounts.
    """
    if not is_loopback(host) and not has_accounts:
        raise StudioError(
            f"--host {host} lets other machines connect, which needs accounts: add --auth FILE "
            "(made with --add-account), or leave --host out."
        )


def request_problem(
    method: str, headers: Mapping[str, list[str]], hosts: Collection[str] | None
) -> str | None:
    """Return why a request is refused; None if it is allowed.

    Args:
        headers: Values by lower-case name.
        hosts: Host names that this server accepts; None: any.
    """
    named = headers.get("host", [])
    if len(named) != 1:
        return f"Expected one Host header; got {len(named)}."
    host = named[0].lower()
    if hosts is not None and _without_port(host) not in hosts:
        return "This host name is not allowed. Open the studio as localhost."
    origin = headers.get("origin", [None])[-1]
    site = headers.get("sec-fetch-site", [None])[-1]
    if origin is not None and not _is_own(origin, host):
        return "This request came from another site. Open the studio itself."
    if site in (None, "same-origin", "none"):
        return None
    # Another site may link to the studio, but not embed it or send requests.
    is_link = headers.get("sec-fetch-mode", [""])[-1] == "navigate" and method in SAFE_METHODS
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
    """Return whether the request follows a link on another site, without the studio's cookies."""
    site = headers.get("sec-fetch-site", [""])[-1]
    mode = headers.get("sec-fetch-mode", [""])[-1]
    return mode == "navigate" and site in ("cross-site", "same-site")


def is_subresource(headers: Mapping[str, list[str]]) -> bool:
    """Return whether a page made the request, not a program or a person opening a page."""
    mode = headers.get("sec-fetch-mode", [None])[-1]
    return mode is not None and mode != "navigate"
