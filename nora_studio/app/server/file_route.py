"""`/files/...`: a visitor's own photos, pictures and adapters, to nobody else."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.csrf import FILE_POLICY
from nora_studio.app.server.workspace import FILES_ROUTE, Workspace
from nora_studio.errors import StudioError

TEXT = "text/plain; charset=utf-8"
KINDS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".safetensors": "application/octet-stream",
    ".json": "application/json",
    ".jsonl": TEXT,
    ".toml": TEXT,
    ".md": TEXT,
    ".html": TEXT,  # Told, never run: it may hold anything.
    ".txt": TEXT,
}
"""What a run, a drawing or an upload consists of. Nothing else is served."""
THUMBNAILS = ".thumbs"
"""The one hidden folder whose files are served."""


def file_routes(auth: Authenticator) -> list[Route]:
    """The route, by which only files of the one who asks are found."""

    async def serve(request: Request) -> Response:
        visit = auth.identify(request.headers.getlist("cookie"))
        file = None
        if visit.visitor is not None:
            workspace = Workspace(auth.home / "visitors" / visit.visitor)
            file = find_file(workspace, request.path_params["path"])
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
        return FileResponse(file, headers=headers, media_type=KINDS[file.suffix], filename=name)

    return [Route(f"{FILES_ROUTE}{{path:path}}", serve, methods=["GET"])]


def find_file(workspace: Workspace, relative: str) -> Path | None:
    """The file of that path in a workspace, if it is one that is served."""
    if not relative.isprintable() or relative.startswith("/") or "\\" in relative:
        return None
    try:
        file = workspace.own(relative)
        real = file.relative_to(workspace.folder.resolve())
    except (StudioError, OSError, ValueError):
        return None
    # Of the file that it leads to, and of the path that was asked for.
    for parts in (Path(relative).parts, real.parts):
        if any(part.startswith(".") and part != THUMBNAILS for part in parts):
            return None
    return file if file.suffix in KINDS else None
