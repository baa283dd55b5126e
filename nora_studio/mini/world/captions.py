"""Captions of the pictures, worded as people would write them."""

from random import Random

from nora_studio.mini.world.scenes import VIEW_SIZE, Scenes
from nora_studio.mini.world.vocabulary import (
    ACCESSORIES,
    ANIMALS,
    CLASSES,
    COLOR_NAMES,
    EMBLEMS,
    NAMES,
    PATTERNS,
    PLACE_PHRASES,
    PLACES,
    STYLES,
    SYNONYMS,
    with_article,
)

_OPENINGS = {
    "photo": ["a photo of"] * 3 + ["a picture of", "an image of", "a rendering of", ""],
    "sketch": ["a pencil sketch of", "a pencil drawing of", "a sketch of"],
    "monochrome": ["a black and white photo of", "a monochrome photo of"],
}
_FIELDS = (
    "kind", "main_color", "second_color", "accent_color", "pattern", "emblem", "accessory",
    "name", "place", "background", "style",
)  # fmt: skip


def write_captions(
    scenes: Scenes, seed: int, per_scene: int = 1, full: bool = False
) -> list[list[str]]:
    """Write `per_scene` captions for every scene, in the order of the scenes.

    A caption omits details as people do, and never names what cannot be seen: sketches and
    monochrome photos have no colours. `full` captions name everything.

    Returns:
        One list per scene. The same arguments give the same captions.
    """
    random = Random(seed)
    columns = [getattr(scenes, field).tolist() for field in _FIELDS]
    sizes = scenes.view[:, VIEW_SIZE].tolist()
    return [
        [_write(dict(zip(_FIELDS, row, strict=True)), size, random, full) for _ in range(per_scene)]
        for *row, size in zip(*columns, sizes, strict=True)
    ]


def _write(scene: dict[str, int], size: float, random: Random, full: bool) -> str:
    style = STYLES[scene["style"]]
    is_character = scene["name"] >= 0
    noun = _noun(scene, random, full or is_character)
    # Half of a character's captions give the name alone, so that the name must carry the looks.
    describes = full or not is_character or random.random() < 0.5
    adjectives = _adjectives(scene, size, random, full, style) if describes else []
    body = " ".join([*adjectives, noun])
    article = random.choice(["a", "a", "a", "a", "the", "one", "my"])
    if is_character:
        body = f"{NAMES[scene['name']]} {body}"
        article = random.choice(["a", "a", "", "my"])
    subject = with_article(body) if article == "a" else f"{article} {body}".strip()
    extras = _extras(scene, random, full, style) if describes else ""
    place = _place(scene, random, style) if full or random.random() < 0.86 else ""
    parts = (random.choice(_OPENINGS[style]), subject, extras, place)
    return " ".join(part for part in parts if part)


def _noun(scene: dict[str, int], random: Random, exact: bool) -> str:
    class_word = CLASSES[scene["kind"]]
    if not exact and random.random() < 0.03:
        return "animal" if class_word in ANIMALS else random.choice(["toy", "object"])
    return random.choice(SYNONYMS[class_word])


def _adjectives(
    scene: dict[str, int], size: float, random: Random, full: bool, style: str
) -> list[str]:
    words = []
    if not full and random.random() < 0.2 and not 0.25 <= size <= 0.75:
        words.append("small" if size < 0.25 else "large")
    pattern = PATTERNS[scene["pattern"]]
    names_color = (full or random.random() < 0.75) and style == "photo"
    names_pattern = full or random.random() < 0.8
    main, second = COLOR_NAMES[scene["main_color"]], COLOR_NAMES[scene["second_color"]]
    names_both = full or random.random() < 0.5
    if names_color and names_pattern and pattern != "plain" and names_both:
        return [*words, f"{main} and {second} {pattern}"]
    if names_color:
        words.append(main)
    if names_pattern and (pattern != "plain" or random.random() < 0.08):
        words.append(pattern)
    return words


def _extras(scene: dict[str, int], random: Random, full: bool, style: str) -> str:
    parts = []
    accent = COLOR_NAMES[scene["accent_color"]] if style == "photo" else ""
    accessory, emblem = ACCESSORIES[scene["accessory"]], EMBLEMS[scene["emblem"]]
    if accessory != "none" and (full or random.random() < 0.88):
        is_tinted = bool(accent) and accessory != "crown" and random.random() < 0.5
        words = f"{accent} {accessory}" if is_tinted else accessory
        verb = random.choice(["wearing", "wearing", "with"])
        parts.append(f"{verb} {words if accessory == 'glasses' else with_article(words)}")
    if emblem != "none" and (full or random.random() < 0.85):
        words = f"{accent} {emblem}" if accent and random.random() < 0.35 else emblem
        on_it = " on it" if random.random() < 0.6 else ""
        parts.append(f"with {with_article(words)}{on_it}")
    return (" and " if random.random() < 0.5 else " ").join(parts)


def _place(scene: dict[str, int], random: Random, style: str) -> str:
    phrases = PLACE_PHRASES[PLACES[scene["place"]]]
    phrase = random.choice(phrases)
    if "{background}" not in phrase:
        return phrase
    if style != "photo":
        return "on a plain background"
    background = with_article(f"{COLOR_NAMES[scene['background']]} background")
    return phrase.replace("a {background} background", background)
