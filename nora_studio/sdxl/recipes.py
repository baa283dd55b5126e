"""What a picture was drawn from, as it travels inside the PNG."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image

RECIPE_KEY = "nora_studio"
"""Of the PNG's text."""


@dataclass(frozen=True)
class Recipe:
    """Everything a picture was drawn from; it travels inside the PNG."""

    model: str
    prompt: str
    """As written, "[V]" included."""
    seed: int
    steps: int
    guidance: float
    size: int
    """Side in pixels."""
    version: str
    """Of nora-studio."""
    adapter: str | None = None
    """Name of the adapter's run; None for the base."""
    method: str | None = None
    strength: float = 1.0
    trigger: str | None = None
    """The rare word that took the place of "[V]"."""
    negative: str | None = None
    weights: str | None = None
    """Fingerprint of base and adapter weights: retrained under the same name, it differs."""
    strengths: list[list[Any]] | None = None
    """[name, strength] of each adapter, where several are on at once; their changes add up."""


def read_recipe(path: Path) -> Recipe:
    """Read what a picture was drawn from.

    Raises:
        StudioError: it is no picture of this project, is damaged, or far too large.
    """
    try:
        with open_image(path) as image:
            image.load()  # also finds a file that was cut short
            return Recipe(**json.loads(image.info[RECIPE_KEY]))
    except StudioError:
        raise
    except KeyError as error:
        raise StudioError(f"{path} carries no recipe: it was not drawn here.") from error
    except (OSError, SyntaxError, ValueError, TypeError) as error:
        raise StudioError(f"{path} cannot be read: {error}. Draw it again.") from error
