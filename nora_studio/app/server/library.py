"""A visitor's adapters: those of their runs, and adapter files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nora_studio.adapters.files.adapter_file import CARD, embeddings_path, open_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.app.server.run_history import settings_of
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.runs.history import find_runs
from nora_studio.runs.runs import Run
from nora_studio.runs.sample_files import latest_sample

SUFFIX = ".safetensors"
TRASH = ".trash"
SCORES = {"sample_clip_i": "CLIP-I", "sample_clip_t": "CLIP-T", "sample_dino": "DINO"}
"""The keys of a run's log for the scores of its samples, and their usual names."""


@dataclass(frozen=True)
class LibraryEntry:
    """One adapter of a visitor."""

    path: str
    """Path in the workspace, for commands: "runs/mug-nora", "adapters/mug.safetensors"."""
    title: str
    kind: str
    """run; or for a file: seed, kohya, diffusers (`identify.Identity.kind`)."""
    bytes: int
    time: float
    """Modification time in seconds since 1970."""
    card: AdapterCard | None
    problem: str = ""
    """Why it cannot be read; then it has no card."""
    thumbnail: Path | None = None
    """The run's latest sample; a file exported from a run here has that run's."""
    scores: dict[str, float] = field(default_factory=dict)
    """Latest scores of its samples, by name."""
    judge: str = ""
    """Name of the CLIP that gave the scores."""


def library(workspace: Workspace) -> list[LibraryEntry]:
    """Return all adapters of a visitor, newest first."""
    runs = [_run_entry(run) for run in find_runs(workspace.runs) if (run.adapter / CARD).is_file()]
    shown = {_origin(entry.card): entry.thumbnail for entry in runs if entry.card is not None}
    files = [_file_entry(file, shown) for file in adapter_files(workspace)]
    return sorted([*runs, *files], key=lambda entry: (-entry.time, entry.path))


def adapter_files(workspace: Workspace) -> Iterator[Path]:
    """List the adapter files of a workspace, without the new tokens next to them."""
    tokens = embeddings_path(Path(SUFFIX)).name
    for file in sorted(workspace.adapters.glob(f"*{SUFFIX}")):
        if file.name[0] != "." and not file.name.endswith(tokens) and file.is_file():
            yield file


def find_entry(workspace: Workspace, path: str) -> LibraryEntry:
    """Return an adapter by its path.

    Raises:
        StudioError: the visitor has no adapter there, or a link leads out of the workspace.
    """
    for entry in library(workspace):
        if entry.path == path:
            workspace.adapter(path)
            return entry
    raise StudioError(f"there is no adapter {str(path)[:80]!r} here. It may have been removed.")


def remove_file(workspace: Workspace, path: str) -> None:
    """Move an adapter file and its new tokens to the trash; `restore_file` undoes it.

    Raises:
        StudioError: there is no such file, or the adapter is a run's, which History deletes.
    """
    entry = find_entry(workspace, path)
    if entry.kind == "run":
        raise StudioError(f"{entry.title} belongs to a run. Delete the run under History.")
    file = workspace.folder / entry.path
    trash = workspace.adapters / TRASH
    trash.mkdir(exist_ok=True, mode=0o700)
    for one in (file, embeddings_path(file)):
        if one.is_file():
            one.replace(trash / one.name)


def restore_file(workspace: Workspace, name: str) -> None:
    """Restore an adapter file from the trash.

    Args:
        name: The file's name without its suffix.

    Raises:
        StudioError: the file is not in the trash, or another one has its name.
    """
    file = workspace.adapters / TRASH / f"{check_name(name)}{SUFFIX}"
    target = workspace.adapters / file.name
    if not file.is_file():
        raise StudioError(f"{name} is no longer in the trash.")
    if target.exists():
        raise StudioError(
            f"another adapter is named {name} now. Remove that one first, then restore this one."
        )
    for one in (file, embeddings_path(file)):
        if one.is_file():
            one.replace(workspace.adapters / one.name)


def _run_entry(run: Run) -> LibraryEntry:
    size = sum(file.stat().st_size for file in run.adapter.rglob(f"*{SUFFIX}"))
    card, _, problem = _read_card(run.adapter)
    scores, judge = _scores(run)
    return LibraryEntry(
        path=f"runs/{run.folder.name}",
        title=run.folder.name,
        kind="run",
        bytes=size,
        time=(run.adapter / CARD).stat().st_mtime,
        card=card,
        problem=problem,
        thumbnail=latest_sample(run),
        scores=scores,
        judge=judge,
    )


def _scores(run: Run) -> tuple[dict[str, float], str]:
    """Return a run's latest scores of its samples and their judge's name; empty if it has none."""
    found: dict[str, float] = {}
    judge: str | None = None
    for row in run.read_log():
        own = {SCORES[key]: float(row[key]) for key in SCORES if key in row}
        if own:
            judge = row.get("sample_judge")
            found |= own
    if found and judge is None:  # Logs of earlier versions do not name the judge; the settings do.
        judge = settings_of(run).get("clip", EMBEDDED)
    return found, str(judge or "")


def _file_entry(file: Path, shown: dict[tuple, Path | None]) -> LibraryEntry:
    card, kind, problem = _read_card(file)
    tokens = embeddings_path(file)
    return LibraryEntry(
        path=f"adapters/{file.name}",
        title=file.stem,
        kind=kind,
        bytes=file.stat().st_size + (tokens.stat().st_size if tokens.is_file() else 0),
        time=file.stat().st_mtime,
        card=card,
        problem=problem,
        thumbnail=shown.get(_origin(card)) if card is not None else None,
    )


def _read_card(path: Path) -> tuple[AdapterCard | None, str, str]:
    """Return an adapter's card and kind; or the reason why it cannot be read."""
    try:
        adapter = open_adapter(path)
        return adapter.card, adapter.identity.kind, ""
    except StudioError as error:
        return None, "", str(error).replace(f"{path.parent}/", "")


def _origin(card: AdapterCard) -> tuple:
    """Return what a run's adapter and the files made from it have in common."""
    return (card.method, card.trigger, card.prompt, card.steps, card.seed, card.parameters)
