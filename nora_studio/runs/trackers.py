"""A run's log in TensorBoard, Weights & Biases or Trackio, through accelerate's trackers."""

import contextvars
import importlib.util
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker
from PIL import Image

from nora_studio.errors import StudioError, first_line
from nora_studio.runs.atomic import write_text

PROJECT = "nora-studio"
IDENTITY = "tracker.json"
"""File in a run's folder with the id by which the tracker's service knows the run when resumed."""


def check_tracker(name: str) -> None:
    """Refuse a tracker whose library is not installed.

    Raises:
        StudioError: the library is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        extra = "'nora-studio[trackers]'" if name == "tensorboard" else name
        raise StudioError(f"--tracker: {name} is not installed. Run `pip install {extra}`.")


class RunTracker:
    """One run's tracker. "learning_rate": {"unet": ...} of the log becomes "learning_rate/unet"."""

    def __init__(self, tracker: GeneralTracker) -> None:
        """Wrap a tracker that has been started."""
        self.tracker = tracker

    def log(self, step: int, values: Mapping[str, object]) -> None:
        """Log numbers by name, as in the run's log."""
        flat: dict[str, Any] = {}
        for name, value in values.items():
            inner = value.items() if isinstance(value, Mapping) else [(None, value)]
            flat |= {name if key is None else f"{name}/{key}": number for key, number in inner}
        self.tracker.log(flat, step=step)

    def log_images(self, step: int, images: Mapping[str, Image.Image]) -> None:
        """Log images by name, if the tracker supports images."""
        if isinstance(self.tracker, TensorBoardTracker):
            arrays: dict[str, Any] = {
                name: np.asarray(image.convert("RGB"))[None] for name, image in images.items()
            }
            self.tracker.log_images(arrays, step=step, dataformats="NHWC")
        elif isinstance(self.tracker, WandBTracker):
            one_each: dict[str, Any] = {name: [image] for name, image in images.items()}
            self.tracker.log_images(one_each, step=step)

    def finish(self) -> None:
        """Flush and close the tracker."""
        self.tracker.finish()


def open_tracker(name: str, folder: Path, settings: str, done: int) -> RunTracker | None:
    """Open a run's tracker, or continue the one that the run was started with; None for "none".

    TensorBoard's files are in `tensorboard/` of the run's folder. Weights & Biases keeps its files
    in the run's folder as well, and Trackio in TRACKIO_DIR; both know the run by an id that is
    kept in `tracker.json`.

    Args:
        folder: The run's folder.
        settings: The run's options, TOML.
        done: Steps done already; what an earlier process logged of later steps is discarded.

    Raises:
        StudioError: the tracker cannot start.
    """
    if name == "none":
        return None
    if name == "tensorboard":
        tracker: GeneralTracker = TensorBoardTracker(
            name, folder, **({"purge_step": done + 1} if done else {})
        )
    else:
        own = {"name": folder.name, "config": {"options": settings}, "resume": "allow"}
        if name == "wandb":
            # create_new: twins are two runs of one process.
            own |= {"id": _identity(folder), "dir": str(folder), "reinit": "create_new"}
            tracker = WandBTracker(PROJECT, **own)
        else:
            own |= {"name": f"{folder.name}-{_identity(folder)}", "embed": False}
            own |= {"auto_log_cpu": False, "auto_log_gpu": False}
            tracker = TrackioTracker(PROJECT, **own)
    try:
        # Trackio ends the run of the current context, so each twin starts in an empty one.
        contextvars.Context().run(tracker.start)
    except Exception as error:  # Each library has its own errors: no network, login or space.
        raise StudioError(
            f"--tracker: {name} cannot start: {first_line(error).rstrip('.')}. Check its login and "
            "the network, or leave --tracker out."
        ) from error
    if isinstance(tracker, TensorBoardTracker) and not done:
        tracker.log({"options": f"```\n{settings}\n```"}, step=0)
    return RunTracker(tracker)


def _identity(folder: Path) -> str:
    """Return a run's id, random and kept, since another run may have had the same name before."""
    file = folder / IDENTITY
    if not file.exists():
        write_text(file, json.dumps({"id": uuid.uuid4().hex[:8]}) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))["id"]
