"""A studio: its visitors, its queues, and the models that it allows."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nora_studio.app.server.auth import Authenticator
from nora_studio.app.server.image_queue import ImageQueue
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.limits import LimitCheck
from nora_studio.app.server.model_access import ModelAccess
from nora_studio.app.server.resource_use import check_training
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions

TICK_SECONDS = 1.0


@dataclass(frozen=True)
class Studio:
    """The parts of the server that every page of the app uses."""

    auth: Authenticator
    jobs: Jobs
    image_queue: ImageQueue
    models: ModelAccess
    """The models that may be loaded."""

    def workspace(self, headers: Mapping[str, str]) -> Workspace:
        """Return the folder of the visitor who sends a request.

        Raises:
            StudioError: the request has no valid cookie of this studio.
        """
        return self.auth.workspace(headers)

    def is_model_allowed(self, name: str) -> bool:
        """Return whether a model's name or directory may be loaded."""
        return self.models.is_allowed(name)

    @property
    def is_private(self) -> bool:
        """Whether only the studio's owner reaches it."""
        return self.jobs.is_private

    def check_training(self, options: DreamboothOptions) -> None:
        """Refuse a training that this studio does not allow, whichever button starts it.

        Raises:
            StudioError: its base or judge may not be loaded, or it exceeds a limit.
        """
        self.models.check(options.model)
        if options.clip is not None:
            self.models.check(options.clip, "--clip")
        check_training(options, LimitCheck(self.is_private))

    def run_queue(self, stop: threading.Event) -> None:
        """Start waiting jobs until the event is set; runs in a thread of its own."""
        while not stop.wait(TICK_SECONDS):
            try:
                self.jobs.tick()
            except (OSError, StudioError) as error:  # A full disk, which may have room again soon.
                print(f"The queue is paused: {error}")
