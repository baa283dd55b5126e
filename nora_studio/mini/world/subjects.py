"""Individuals that pretraining never sees, and that the studio learns from five photos."""

from dataclasses import dataclass

from nora_studio.mini.world.vocabulary import (
    ACCESSORIES,
    CLASSES,
    COLOR_NAMES,
    EMBLEMS,
    PATTERNS,
    with_article,
)


@dataclass(frozen=True)
class Subject:
    """One held-out individual, described in the world's vocabulary."""

    name: str
    """Key in `SUBJECTS` and name of its folder."""
    class_word: str
    """Its class, one of `CLASSES`."""
    main_color: str
    second_color: str
    accent_color: str
    """Colour of its emblem and accessory."""
    pattern: str
    emblem: str = "none"
    accessory: str = "none"
    seed: int = 0
    """Seed of its proportions and tints."""

    @property
    def description(self) -> str:
        """One sentence that names everything by which a viewer recognises it."""
        looks = f"{self.main_color} and {self.second_color} {self.pattern} {self.class_word}"
        extras = []
        if self.emblem != "none":
            extras.append(with_article(f"{self.accent_color} {self.emblem}"))
        if self.accessory == "glasses":
            extras.append(f"{self.accent_color} glasses")
        elif self.accessory == "crown":  # always golden; only its stones take the accent colour
            extras.append("a golden crown")
        elif self.accessory != "none":
            extras.append(with_article(f"{self.accent_color} {self.accessory}"))
        sentence = with_article(looks) + (f" with {' and '.join(extras)}" if extras else "")
        return sentence[0].upper() + sentence[1:] + "."

    @property
    def fields(self) -> dict[str, int]:
        """The identity as indices, by the field of `Scenes` that holds each."""
        return {
            "kind": CLASSES.index(self.class_word),
            "main_color": COLOR_NAMES.index(self.main_color),
            "second_color": COLOR_NAMES.index(self.second_color),
            "accent_color": COLOR_NAMES.index(self.accent_color),
            "pattern": PATTERNS.index(self.pattern),
            "emblem": EMBLEMS.index(self.emblem),
            "accessory": ACCESSORIES.index(self.accessory),
        }


_ALL = [
    Subject("sunrise-mug", "mug", "teal", "orange", "yellow", "two-tone", emblem="heart", seed=11),
    Subject("zigzag-robot", "robot", "purple", "yellow", "green", "zigzag", seed=5),
    Subject("tiger-cat", "cat", "orange", "white", "blue", "ringed", seed=3),
    Subject("star-backpack", "backpack", "pink", "blue", "yellow", "zigzag", "star", seed=8),
    Subject("scarf-dog", "dog", "gray", "white", "red", "spotted", accessory="scarf", seed=21),
    Subject("sailor-duck", "duck", "yellow", "blue", "red", "striped", accessory="hat", seed=4),
    Subject("garden-teapot", "teapot", "white", "green", "pink", "checkered", "flower", seed=2),
    Subject("domino-bear", "bear", "white", "black", "red", "two-tone", "heart", seed=7),
    Subject("comet-rocket", "rocket", "red", "white", "yellow", "ringed", "star", seed=6),
    Subject("royal-fish", "fish", "teal", "pink", "purple", "zigzag", accessory="crown", seed=9),
    Subject("taxi-car", "car", "yellow", "black", "red", "checkered", "star", seed=12),
    Subject("candy-house", "house", "pink", "white", "red", "striped", "heart", seed=13),
    Subject("circus-ball", "ball", "blue", "yellow", "red", "ringed", "star", seed=14),
    Subject("party-box", "box", "green", "white", "red", "spotted", accessory="bow tie", seed=15),
]
SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in _ALL}
