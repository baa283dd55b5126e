"""Uploaded adapter files: checked by their headers and stored under safe names."""

import secrets
import shutil
from pathlib import Path

from filelock import FileLock

from nora_studio.adapters.files.adapter_file import embeddings_path, open_adapter
from nora_studio.app.server.quota import check_size, reserve_room, shown_name
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace, safe_name
from nora_studio.errors import StudioError
from nora_studio.runs.disk_errors import writing

MAX_ADAPTER_BYTES = 2 * 1024**3
_SUFFIX = ".safetensors"
_TOKENS_SUFFIX = ".embedding.safetensors"


def add_adapter(workspace: Workspace, entry: Upload, quota: int | None = None) -> Path:
    """Store an uploaded adapter file; new tokens are stored next to their adapter.

    Raises:
        StudioError: the file cannot be loaded here, is too large, or cannot be written.
    """
    shown = shown_name(entry.name, "adapter.safetensors")
    size = entry.file.stat().st_size
    check_size(shown, size, MAX_ADAPTER_BYTES)
    incoming = workspace.adapters / f".incoming-{secrets.token_hex(4)}{_SUFFIX}"
    # After this block the copy itself counts towards the quota.
    with reserve_room(workspace, size, quota), writing("an adapter", Path(shown)):
        shutil.copyfile(entry.file, incoming)
    try:
        with FileLock(workspace.adapters / ".lock", timeout=60):
            path = _path_for(workspace, incoming, shown)
            incoming.replace(path)
    except StudioError as error:
        raise StudioError(str(error).replace(str(incoming), shown)) from error
    finally:
        incoming.unlink(missing_ok=True)
    return path


def _path_for(workspace: Workspace, file: Path, shown: str) -> Path:
    """Return the path to store a file at, by its content.

    Raises:
        StudioError: the file is not an adapter that can be loaded here, or is damaged.
    """
    stem = shown.lower().removesuffix(_TOKENS_SUFFIX).removesuffix(_SUFFIX)
    name = safe_name(stem, "adapter")
    adapter = open_adapter(file)
    if adapter.identity.kind == "embedding":
        return _path_for_tokens(workspace, name, shown)
    _ = adapter.card  # Raises if it cannot be loaded here or its card is damaged.
    path, number = workspace.adapters / f"{name}{_SUFFIX}", 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name[:44]}-{number}{_SUFFIX}")
    return path


def _path_for_tokens(workspace: Workspace, name: str, shown: str) -> Path:
    """Return the path for new tokens: next to the newest adapter of their name without any."""
    files = [
        workspace.adapters / f"{name}{_SUFFIX}",
        *workspace.adapters.glob(f"{name}-*{_SUFFIX}"),
    ]
    lacking = [
        file
        for file in files
        if file.is_file()
        and not file.name.endswith(_TOKENS_SUFFIX)
        and not embeddings_path(file).exists()
    ]
    if not lacking:
        raise StudioError(
            f"{shown} holds new tokens and no adapter. Add the adapter that they belong to, "
            f"{name}{_SUFFIX}, first."
        )
    return embeddings_path(max(lacking, key=lambda file: file.stat().st_mtime_ns))
