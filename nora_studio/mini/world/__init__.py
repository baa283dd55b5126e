"""The toy world: any number of captioned pictures, and individual subjects to personalise."""

from nora_studio.mini.world.captions import write_captions
from nora_studio.mini.world.render import render
from nora_studio.mini.world.scenes import Scenes, is_held_out, sample_scenes, subject_scenes
from nora_studio.mini.world.subjects import SUBJECTS, Subject
from nora_studio.mini.world.vocabulary import (
    ACCESSORIES,
    CLASSES,
    COLORS,
    EMBLEMS,
    NAMES,
    PATTERNS,
    PLACE_PHRASES,
    PLACES,
    STYLES,
    SYNONYMS,
)

__all__ = [
    "ACCESSORIES",
    "CLASSES",
    "COLORS",
    "EMBLEMS",
    "NAMES",
    "PATTERNS",
    "PLACES",
    "PLACE_PHRASES",
    "STYLES",
    "SUBJECTS",
    "SYNONYMS",
    "Scenes",
    "Subject",
    "is_held_out",
    "render",
    "sample_scenes",
    "subject_scenes",
    "write_captions",
]
