"""A CLIP as open_clip itself loads it, to compare with."""

from typing import Any

import open_clip

from support.any_module import AnyModule


def open_clips_own(name: str, **settings: Any) -> tuple[AnyModule, Any]:
    """The model, and its preprocessing of pictures to be judged."""
    model, _, preprocess = open_clip.create_model_and_transforms(name, **settings)
    return model, preprocess
