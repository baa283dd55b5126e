"""Adapters that a visitor can generate images with: runs, their checkpoints, and files."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.methods.table import METHOD_NAMES
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.runs.history import find_runs

CHECKPOINTS_SHOWN = 5
_SUBJECT = re.compile(r"\[v\]\s+([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class UsableAdapter:
    """An adapter that images can be generated with."""

    path: str
    """Path in the workspace."""
    name: str
    """Name of the run or file."""
    card: AdapterCard
    checkpoints: dict[int, str]
    """Step -> path in the workspace, the final one last."""

    @property
    def method(self) -> str:
        """The method's usual name."""
        return METHOD_NAMES.get(self.card.method, self.card.method)

    @property
    def subject(self) -> str:
        """The subject in prompts: "[V] mug"."""
        match = _SUBJECT.search(self.card.prompt)
        return f"[V] {match[1]}" if match else "[V]"


def find_usable_adapters(workspace: Workspace) -> list[UsableAdapter]:
    """Return a visitor's usable adapters, newest first; damaged ones are left out."""
    found: list[tuple[float, UsableAdapter]] = []
    for run in find_runs(workspace.runs):
        places = run.checkpoints()
        final = run.adapter if run.adapter.is_dir() else next(reversed(places.values()), None)
        card = _card_of(final)
        if final is None or card is None:
            continue
        steps = {step: _relative(workspace, folder) for step, folder in places.items()}
        path = _relative(workspace, run.folder if final == run.adapter else final)
        steps |= {card.steps: path} if final == run.adapter else {}
        own = UsableAdapter(path, run.folder.name, card, dict(sorted(steps.items())))
        found.append((_written_at(final), own))
    for file in sorted(workspace.adapters.glob("*.safetensors")):
        card = None if file.name.startswith(".") else _card_of(file)
        if card is not None:
            own = UsableAdapter(_relative(workspace, file), file.stem, card, {})
            found.append((_written_at(file), own))
    return [own for _, own in sorted(found, key=lambda one: -one[0])]


def usable_adapters_with(workspace: Workspace, paths: Iterable[str]) -> list[UsableAdapter]:
    """Return the usable adapters, and the checkpoints of runs that are among some paths."""
    found = find_usable_adapters(workspace)
    requested = set(paths) - {one.path for one in found}
    earlier = [
        UsableAdapter(path, f"{one.name} step {step}", one.card.at(step), {step: path})
        for one in found
        for step, path in one.checkpoints.items()
        if path in requested
    ]
    return found + earlier


def column_labels(chosen: list[UsableAdapter]) -> list[str]:
    """Return the columns' labels: the methods, or the run names where two share a method."""
    methods = [one.method for one in chosen]
    return methods if len(set(methods)) == len(methods) else [one.name for one in chosen]


def spaced_checkpoints(adapter: UsableAdapter, most: int = CHECKPOINTS_SHOWN) -> dict[int, str]:
    """Return at most so many checkpoints of an adapter, evenly spaced, including the last."""
    steps = list(adapter.checkpoints)
    if len(steps) > most:
        steps = [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]
    return {step: adapter.checkpoints[step] for step in steps}


def _card_of(path: Path | None) -> AdapterCard | None:
    try:
        return None if path is None else open_adapter(path).card
    except StudioError:
        return None


def _written_at(path: Path) -> float:
    """Return an adapter's modification time; 0 if it was deleted just now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _relative(workspace: Workspace, path: Path) -> str:
    return path.relative_to(workspace.folder).as_posix()
