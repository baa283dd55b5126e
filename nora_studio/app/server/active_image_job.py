"""An image job that waits or runs: its state, written to its folder at every change."""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nora_studio.app.server.image_jobs import ImageJob, write_image_job
from nora_studio.app.server.workspace import Workspace


@dataclass(eq=False)
class ActiveImageJob:
    """An image job that waits or runs."""

    workspace: Workspace
    job: ImageJob
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def visitor(self) -> Path:
        """The folder of the visitor who submitted it."""
        return self.workspace.folder

    def save(self) -> None:
        """Write the job to its folder."""
        write_image_job(self.workspace, self.job)

    def update(self, **values: Any) -> None:
        """Change fields of the job and write it to its folder."""
        self.job = replace(self.job, **values)
        # A full disk is reported by the images, which cannot be written either.
        with contextlib.suppress(OSError):
            write_image_job(self.workspace, self.job)

    def record_image(self, event: Mapping[str, Any]) -> None:
        """Store the file of a generated image, and the word that its column uses for "[V]"."""
        index = (event["column"], event["prompt"], event["seed"])
        words = {event["column"]: event["trigger"]} if event["trigger"] else {}
        files = {**self.job.files, index: event["file"]}
        is_scored_next = self.job.awaits_scores and len(files) == self.job.request.count
        state = "scoring" if is_scored_next else "drawing"
        self.update(state=state, files=files, words={**self.job.words, **words})

    def record_scores(self, event: Mapping[str, Any]) -> None:
        """Store the scores of a "scores" event, or the reason of an "unscored" event."""
        facts = {"judge": event.get("judge"), "unscored": event.get("reason")}
        differences = tuple(event.get("differences", ()))
        self.update(**facts, scores=event.get("scores"), differences=differences)

    def add_warnings(self, lines: Sequence[str]) -> None:
        """Store warnings of the generation server, each once."""
        texts = [line.removeprefix("warning: ") for line in lines]
        texts = [text[:1].upper() + text[1:] for text in texts]
        warnings = tuple(dict.fromkeys((*self.job.warnings, *texts)))
        if warnings != self.job.warnings:
            self.update(warnings=warnings)
