"""The route `/files/...`: each visitor's own photos, images and adapters."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.csrf import FILE_POLICY
from nora_studio.app.server.workspace import FILES_ROUTE, Workspace
from nora_studio.errors import StudioError

TEXT = "text/plain; charset=utf-8"
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".jsonl": TEXT,
    ".toml": TEXT,
    ".md": TEXT,
    ".html": TEXT,  # Shown as text and never rendered: it may contain anything.
    ".txt": TEXT,
}
"""Media types by suffix, for the files of runs, image jobs and uploads. No other is served."""
THUMBNAILS = ".thumbs"
"""The one hidden folder whose files are served."""


def file_routes(auth: Authenticator) -> list[Route]:
    """Return the route, which serves each visitor their own files only."""

    async def serve(request: Request) -> Response:
        visit = auth.identify(request.headers.getlist("cookie"))
        file = None
        if visit.visitor is not None:
            workspace = Workspace(auth.home / "visitors" / visit.visitor)
            file = find_served_file(workspace, request.path_params["path"])
        if file is None:
            return PlainTextResponse("There is no such file here.", 404)
        is_versioned = "v" in request.query_params
        headers = {
            "content-security-policy": FILE_POLICY,
            "cache-control": (
                "private, max-age=31536000, immutable" if is_versioned else "private, no-cache"
            ),
            "vary": "Cookie",
        }
        name = file.name if "download" in request.query_params else None
        return FileResponse(
            file, headers=headers, media_type=MEDIA_TYPES[file.suffix], filename=name
        )

    return [Route(f"{FILES_ROUTE}{{path:path}}", serve, methods=["GET"])]


def find_served_file(workspace: Workspace, relative: str) -> Path | None:
    """Return the file at a path in a workspace, if it is one that is served."""
    if not relative.isprintable() or relative.startswith("/") or "\\" in relative:
        return None
    try:
        file = workspace.own_file(relative)
        resolved = file.relative_to(workspace.folder.resolve())
    except (StudioError, OSError, ValueError):
        return None
    # Check the requested path and the path that its links lead to.
    for parts in (Path(relative).parts, resolved.parts):
        if any(part.startswith(".") and part != THUMBNAILS for part in parts):
            return None
    return file if file.suffix in MEDIA_TYPES else None
