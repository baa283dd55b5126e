"""The uploads and sessions that a visitor's request to Gradio may name: only their own.

Gradio accepts any path in its folder of uploads, and sends the events of a session to anyone who
knows its name, which browsers generate with a weak random generator.
"""

import json
from collections.abc import Iterator
from urllib.parse import parse_qs

from nora_studio.app.server.upload_cache import UploadCache

MAX_SESSIONS = 20_000
UPLOAD_EXPIRED = "This upload has expired. Choose the file again."
OTHERS_SESSION = "This page belongs to another visitor. Reload it."
_SESSION_ROUTES = ("/gradio_api/heartbeat/",)


class SessionOwners:
    """The owner of each Gradio session: the visitor who used it first."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}

    def claim(self, session: str, visitor: str) -> bool:
        """Give a session without an owner to a visitor; return whether it is theirs."""
        owner = self._owners.pop(session, visitor)
        self._owners[session] = owner  # Keep the dictionary in the order of last use.
        if len(self._owners) > MAX_SESSIONS:
            self._owners.pop(next(iter(self._owners)))
        return owner == visitor


def session_in_url(path: str, query: bytes) -> str | None:
    """Return the session that a request's URL names."""
    for route in _SESSION_ROUTES:
        if path.startswith(route):
            return path.removeprefix(route).strip("/")
    values = parse_qs(query.decode("latin-1")).get("session_hash")
    return values[-1] if values else None


def body_problem(
    body: bytes, visitor: str, uploads: UploadCache, sessions: SessionOwners
) -> str | None:
    """Return why a request's JSON is refused; None if it is allowed.

    A body that is not JSON is left to Gradio to refuse.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    session = value.get("session_hash")
    if isinstance(session, str) and not sessions.claim(session, visitor):
        return OTHERS_SESSION
    for path in _paths_in(value):
        # A relative path is not an upload; "http://..." would be fetched.
        if ("://" in path or path.startswith(("/", "\\")) or ":\\" in path) and not uploads.belongs(
            visitor, path
        ):
            return UPLOAD_EXPIRED
    return None


def _paths_in(value: object) -> Iterator[str]:
    """Yield every "path" of an object, at any depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str):
                yield path
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
