"""The subjects that are shipped with the project: individuals of the toy world, with photos."""

import json
from dataclasses import dataclass
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded


def shipped_subjects() -> list[str]:
    """Return the names of the shipped subjects."""
    return sorted(folder.name for folder in embedded("subjects").iterdir() if folder.is_dir())


@dataclass(frozen=True)
class ShippedSubject:
    """A subject of the toy world, with photos to train on and scenes to compare with."""

    name: str
    folder: Path
    class_word: str
    description: str
    prompts: tuple[str, ...]
    scenes: tuple[Path, ...]
    """Photos of the subject to compare with, not to train on, one for each prompt."""

    @classmethod
    def load(cls, name: str) -> "ShippedSubject":
        """Load a shipped subject by name.

        Raises:
            StudioError: no subject has that name.
        """
        top, names = embedded("subjects"), shipped_subjects()
        if name not in names:
            raise StudioError(f"--subject: expected one of {', '.join(names)}; got {name!r}.")
        facts = json.loads((top / name / "subject.json").read_text(encoding="utf-8"))
        places = [scene["place"] for scene in facts["scenes"]]
        return cls(
            name=name,
            folder=top / name,
            class_word=facts["class_word"],
            description=facts["description"],
            prompts=tuple(scene["prompt"] for scene in facts["scenes"]),
            scenes=tuple(top / name / "scenes" / f"{place}.jpg" for place in places),
        )
