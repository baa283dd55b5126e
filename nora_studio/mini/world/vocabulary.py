"""The vocabulary of the toy world: what can be drawn, and its names in captions."""

RGB = tuple[float, float, float]

CLASSES = [
    "mug", "teapot", "ball", "box", "cat", "dog", "bear", "robot",
    "car", "house", "rocket", "duck", "backpack", "fish",
]  # fmt: skip
ANIMALS = ["cat", "dog", "bear", "duck", "fish"]
SYNONYMS: dict[str, list[str]] = {  # a repeated word is used more often
    "mug": ["mug", "mug", "mug", "cup"],
    "teapot": ["teapot"],
    "ball": ["ball"],
    "box": ["box", "box", "cube"],
    "cat": ["cat", "cat", "cat", "kitten"],
    "dog": ["dog", "dog", "dog", "puppy"],
    "bear": ["bear", "bear", "teddy bear"],
    "robot": ["robot", "robot", "toy robot"],
    "car": ["car", "car", "toy car"],
    "house": ["house"],
    "rocket": ["rocket"],
    "duck": ["duck", "duck", "rubber duck"],
    "backpack": ["backpack", "backpack", "bag"],
    "fish": ["fish"],
}

COLORS: dict[str, RGB] = {
    "red": (0.86, 0.13, 0.14),
    "orange": (0.97, 0.52, 0.10),
    "yellow": (0.98, 0.85, 0.18),
    "green": (0.18, 0.66, 0.25),
    "teal": (0.10, 0.66, 0.66),
    "blue": (0.15, 0.34, 0.85),
    "purple": (0.52, 0.22, 0.72),
    "pink": (0.97, 0.52, 0.70),
    "brown": (0.50, 0.30, 0.16),
    "white": (0.95, 0.95, 0.94),
    "black": (0.13, 0.13, 0.15),
    "gray": (0.55, 0.56, 0.58),
}
COLOR_NAMES = list(COLORS)

PATTERNS = ["plain", "striped", "spotted", "checkered", "zigzag", "two-tone", "ringed"]
EMBLEMS = ["none", "star", "heart", "flower"]
ACCESSORIES = ["none", "hat", "crown", "scarf", "glasses", "bow tie"]
STYLES = ["photo", "sketch", "monochrome"]

PLACE_PHRASES: dict[str, list[str]] = {  # the first always reads well as it is
    "snow": ["in the snow", "in the snow", "on a snowy field"],
    "grass": ["on the grass", "in a grassy field", "in a meadow"],
    "beach": ["on the beach", "on the beach", "at the beach"],
    "forest": ["in the forest", "in the woods", "in the jungle"],
    "night": ["under a starry night sky", "at night", "under the stars"],
    "table": ["on a wooden table", "on a table"],
    "brick": ["in front of a brick wall", "by a brick wall"],
    "city": ["on a city street", "in the city"],
    "desert": ["in the desert", "in the desert"],
    "underwater": ["under water", "underwater", "at the bottom of the sea"],
    "moon": ["on the moon", "on the moon", "in space"],
    "kitchen": ["in the kitchen", "in a kitchen"],
    "plain": [
        "on a plain background",
        "on a {background} background",
        "on a {background} background",
    ],
}
PLACES = list(PLACE_PHRASES)

# Rare words, each of which names one individual of every class, as a proper name does.
NAMES = [
    "sks", "ohwx", "zwx", "vtq", "bnha", "xjy", "qzk", "wlk",
    "zqp", "kvx", "jqz", "pfw", "gxh", "tzv", "mqk", "dwj",
    "hvq", "rzx", "ykq", "cvj", "nqx", "fjw", "lxz", "bqd",
    "wxv", "qjf", "zgk", "xhp", "vkz", "jwm", "kqr", "pzx",
]  # fmt: skip


def with_article(words: str) -> str:
    """Put the indefinite article before `words`."""
    return ("an " if words[0] in "aeiou" else "a ") + words
