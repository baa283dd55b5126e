"""A drawing that is waiting or at work: how it stands, kept in its folder at every change."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nora_studio.app.server.image_jobs import Sheet, write_sheet
from nora_studio.app.server.workspace import Workspace


@dataclass(eq=False)
class LiveSheet:
    """A drawing that is waiting or at work."""

    workspace: Workspace
    sheet: Sheet
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def visitor(self) -> Path:
        """Whose it is."""
        return self.workspace.folder

    def begin(self) -> None:
        """Keep it for the first time."""
        write_sheet(self.workspace, self.sheet)

    def change(self, **values: Any) -> None:
        """Say how it stands now, and keep that."""
        self.sheet = replace(self.sheet, **values)
        # A full disk is told by the pictures, which cannot be written either.
        with contextlib.suppress(OSError):
            write_sheet(self.workspace, self.sheet)

    def take_scores(self, event: Mapping[str, Any]) -> None:
        """Keep what the drawing server tells of the scores: "scores" or "unscored"."""
        told = {"judge": event.get("judge"), "unscored": event.get("reason")}
        differences = tuple(event.get("differences", ()))
        self.change(**told, scores=event.get("scores"), differences=differences)

    def warn(self, lines: Sequence[str]) -> None:
        """Keep warnings of the drawing server, each once."""
        told = [line.removeprefix("warning: ") for line in lines]
        told = [line[:1].upper() + line[1:] for line in told]
        kept = tuple(dict.fromkeys((*self.sheet.warnings, *told)))
        if kept != self.sheet.warnings:
            self.change(warnings=kept)
