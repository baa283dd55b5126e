"""One studio: its visitors, its queues, and what this machine has."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.image_queue import ImageQueue
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.limits import Limits
from nora_studio.app.server.model_access import ModelAccess
from nora_studio.app.server.resource_use import check_training
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions

TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Studio:
    """What every page of the app works with."""

    auth: Authenticator
    jobs: Jobs
    image_queue: ImageQueue
    models: ModelAccess
    """Which of them may be loaded."""

    def workspace(self, headers: Mapping[str, str]) -> Workspace:
        """Return the folder of the visitor who sends a request.

        Raises:
            StudioError: the request carries no cookie of this studio.
        """
        return self.auth.workspace(headers)

    def is_model_allowed(self, name: str) -> bool:
        """Whether a model's name or directory is one that visitors may have loaded."""
        return self.models.is_allowed(name)

    @property
    def is_private(self) -> bool:
        """Whether only the studio's owner reaches it."""
        return self.jobs.is_private

    def check_training(self, options: DreamboothOptions) -> None:
        """Refuse a training that this studio does not take, whichever button it comes from.

        Raises:
            StudioError: its base or its judge may not be loaded, or it is above a ceiling.
        """
        self.models.check(options.model)
        if options.clip is not None:
            self.models.check(options.clip, "--clip")
        check_training(options, Limits(self.is_private))

    def run_queue(self, stop: threading.Event) -> None:
        """Start what waits, until told to stop; for a thread of its own."""
        while not stop.wait(TICK_SECONDS):
            try:
                self.jobs.tick()
            except (OSError, StudioError) as error:  # A full disk: it may have room again soon.
                print(f"The queue is paused: {error}")
