"""Visitors of a studio in this process, with finished runs in their folders."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nora_studio.app.serve import UiOptions, open_studio
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace

SECRET_LENGTH = 43


def studio_in(home: Path) -> Studio:
    """A studio that nobody serves."""
    return open_studio(home, UiOptions(data=home))


def request_of(studio: Studio, letter: str = "x") -> Any:
    """What a handler gets of a browser; another letter is another browser."""
    name = studio.auth.signer.browser_cookie
    return SimpleNamespace(headers={"cookie": f"{name}={letter * SECRET_LENGTH}"})


def pressed(**data: str) -> Any:
    """What a handler gets when something with `data-act` was pressed."""
    return SimpleNamespace(_data=data)


def bring_runs(workspace: Workspace, runs: Path, photos: Path) -> None:
    """Copy runs and their photos into a visitor's folder, as if they had been trained there."""
    shutil.copytree(photos, workspace.photos / "mug")
    for run in runs.iterdir():
        place = workspace.runs / run.name
        shutil.copytree(run, place)
        config = (place / "config.toml").read_text("utf-8")
        (place / "config.toml").write_text(config.replace(str(photos), "photos/mug"), "utf-8")
