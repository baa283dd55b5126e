"""A run's log in TensorBoard, Weights & Biases or Trackio too, by accelerate's own classes."""

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
"""In a run's folder: under which name the tracker's service knows the run, also when resumed."""


def check_tracker(name: str) -> None:
    """Refuse a tracker whose library is not installed.

    Raises:
        StudioError: it is not.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        extra = "'nora-studio[trackers]'" if name == "tensorboard" else name
        raise StudioError(f"--tracker {name}: not installed. Run `pip install {extra}`.")


class RunTracker:
    """One run's tracker. What the log calls "learning_rate": {"unet": ...}, it calls by a path."""

    def __init__(self, tracker: GeneralTracker) -> None:
        self.tracker = tracker

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers by name, as in the log."""
        flat: dict[str, Any] = {}
        for name, value in values.items():
            inner = value.items() if isinstance(value, Mapping) else [(None, value)]
            flat |= {name if key is None else f"{name}/{key}": number for key, number in inner}
        self.tracker.log(flat, step=step)

    def log_images(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Pictures by name, where the tracker takes any."""
        if isinstance(self.tracker, TensorBoardTracker):
            arrays: dict[str, Any] = {
                name: np.asarray(picture.convert("RGB"))[None] for name, picture in pictures.items()
            }
            self.tracker.log_images(arrays, step=step, dataformats="NHWC")
        elif isinstance(self.tracker, WandBTracker):
            one_each: dict[str, Any] = {name: [picture] for name, picture in pictures.items()}
            self.tracker.log_images(one_each, step=step)

    def finish(self) -> None:
        """Write out what is left, and close."""
        self.tracker.finish()


def open_tracker(name: str, folder: Path, settings: str, done: int) -> RunTracker | None:
    """Open a run's tracker, or go on with the one that the run began with; None for "none".

    TensorBoard's files are in `tensorboard/` of the run's folder. Weights & Biases keeps its files
    in the run's folder as well, and Trackio where TRACKIO_DIR says; both know the run by an id
    that is kept in `tracker.json`.

    Args:
        folder: The run's.
        settings: The run's options, TOML.
        done: Steps done already: what an earlier process told of later ones is void.

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
        # Trackio ends the run that its context knows of: each twin begins in an empty one.
        contextvars.Context().run(tracker.start)
    except Exception as error:  # Each library has its own: no network, no login, a full disk.
        raise StudioError(f"--tracker {name}: could not start: {first_line(error)}") from error
    if isinstance(tracker, TensorBoardTracker) and not done:
        tracker.log({"options": f"```\n{settings}\n```"}, step=0)
    return RunTracker(tracker)


def _identity(folder: Path) -> str:
    """A run's id, drawn once and kept: its name alone may have been another run's before."""
    file = folder / IDENTITY
    if not file.exists():
        write_text(file, json.dumps({"id": uuid.uuid4().hex[:8]}) + "\n")
    return json.loads(file.read_text(encoding="utf-8"))["id"]
