"""One studio: the door, the queue, and what this machine has."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nora_studio.assets import EMBEDDED
from nora_studio.errors import StudioError
from nora_studio.paths import check_path
from nora_studio.studio.doorman import Doorman
from nora_studio.studio.drawings import Drawings
from nora_studio.studio.jobs import Jobs
from nora_studio.studio.workspace import HUB_NAME, Workspace

TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Studio:
    """What every page of the app works with."""

    doorman: Doorman
    jobs: Jobs
    drawings: Drawings
    model_folders: tuple[Path, ...] | None = None
    """Where model directories may lie; None: anywhere but in the studio's own folder, for a studio
    that only this machine reaches."""

    def workspace(self, headers: Mapping[str, str]) -> Workspace:
        """The folder of whoever sends a request.

        Raises:
            StudioError: nobody does whom the door has let in.
        """
        return self.doorman.workspace(headers)

    def is_model_allowed(self, name: str) -> bool:
        """Whether a model's name or directory is one that visitors may have loaded."""
        if name == EMBEDDED:
            return True
        try:
            check_path(Path(name), "--model")
            folder = Path(name).expanduser()
            is_folder = folder.is_dir()
        except (StudioError, OSError, ValueError):
            return False
        # A judge's name too: hf-hub:owner/name, ViT-B-32:openai.
        plain = name.removeprefix("hf-hub:")
        is_name = bool(HUB_NAME.fullmatch(plain) or re.fullmatch(r"[\w-]{1,60}:[\w-]{1,60}", name))
        # Trainings run in the visitor's folder, where a relative path leads elsewhere than here;
        # one that reads like a name cannot leave that folder.
        if not (is_folder and (folder.is_absolute() or is_name)):
            return is_name and not name.startswith("-")
        place = folder.resolve()
        if place.is_relative_to(self.doorman.home):
            return False
        if self.model_folders is None:
            return True
        return any(place.is_relative_to(allowed.resolve()) for allowed in self.model_folders)

    def keep_going(self, stop: threading.Event) -> None:
        """Start what waits, until told to stop; for a thread of its own."""
        while not stop.wait(TICK_SECONDS):
            try:
                self.jobs.tick()
            except (OSError, StudioError) as error:  # A full disk: it may have room again soon.
                print(f"The queue stands still: {error}")
