"""The toy world: what is drawn, what captions say, and what is held out."""

import json
import runpy
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from support.places import TOP
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.mini.world import (
    ACCESSORIES,
    CLASSES,
    COLORS,
    EMBLEMS,
    NAMES,
    PATTERNS,
    PLACE_PHRASES,
    PLACES,
    STYLES,
    SUBJECTS,
    SYNONYMS,
    Scenes,
    render,
    sample_scenes,
    subject_scenes,
    write_captions,
)

COLOR_NAMES = list(COLORS)
IDENTITY = (
    "main_color", "second_color", "accent_color", "pattern", "emblem", "accessory", "identity",
)  # fmt: skip


@pytest.fixture(scope="module")
def many() -> Scenes:
    return sample_scenes(200_000, seed=3)


def combinations(scenes: Scenes) -> set[tuple[int, int, int, int]]:
    columns = (scenes.kind, scenes.main_color, scenes.second_color, scenes.pattern)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def same(a: Scenes, b: Scenes) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scenes))


def change(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def test_no_sampled_scene_is_a_held_out_subject(many: Scenes) -> None:
    seen = combinations(many)
    for subject in SUBJECTS.values():
        own = subject.fields
        kind, main, second = own["kind"], own["main_color"], own["second_color"]
        assert (kind, main, second, own["pattern"]) not in seen, subject.name
        assert (kind, second, main, own["pattern"]) not in seen, subject.name


def test_everything_but_the_held_out_is_sampled(many: Scenes) -> None:
    for field, words in [
        ("kind", CLASSES), ("main_color", COLORS), ("second_color", COLORS),
        ("pattern", PATTERNS), ("emblem", EMBLEMS), ("accessory", ACCESSORIES),
        ("place", PLACES), ("style", STYLES),
    ]:  # fmt: skip
        shares = torch.bincount(getattr(many, field), minlength=len(words)) / len(many)
        assert len(shares) == len(words)
        assert shares.min() > 0.04, (field, shares)
    assert not (many.main_color == many.second_color).any()
    assert not (many.main_color == many.accent_color).any()
    possible = len(CLASSES) * 12 * 11 * len(PATTERNS)
    assert len(combinations(many)) > 0.97 * possible


def test_a_name_and_class_fix_the_identity(many: Scenes) -> None:
    share = float((many.name >= 0).float().mean())
    assert 0.11 < share < 0.13
    other = sample_scenes(20_000, seed=4)
    characters = {}
    for scenes in (many, other):
        named = scenes.select(scenes.name >= 0)
        rows = torch.cat([getattr(named, f).view(len(named), -1).double() for f in IDENTITY], 1)
        keys = (named.name * len(CLASSES) + named.kind).tolist()
        for key, row in zip(keys, rows, strict=True):
            assert torch.equal(characters.setdefault(key, row), row)
    assert len(characters) == len(NAMES) * len(CLASSES)
    assert len({tuple(row.tolist()) for row in characters.values()}) == len(characters)


def test_names_are_used_for_nothing_else() -> None:
    others = {*CLASSES, *COLORS, *PATTERNS, *EMBLEMS, *ACCESSORIES, *PLACES}
    assert len(set(NAMES)) == 32
    assert all(3 <= len(name) <= 4 and name.isalpha() and name.islower() for name in NAMES)
    assert not others & set(NAMES)


def test_the_same_seed_gives_the_same_scenes_captions_and_pixels() -> None:
    first, again = sample_scenes(24, seed=9), sample_scenes(24, seed=9)
    assert same(first, again)
    assert not same(first, sample_scenes(24, seed=10))
    assert write_captions(first, 1, 2) == write_captions(again, 1, 2)
    assert write_captions(first, 1, 2) != write_captions(first, 2, 2)
    assert torch.equal(render(first, 64), render(again, 64))


def test_a_scene_looks_the_same_in_any_batch() -> None:
    scenes = sample_scenes(40, seed=5)
    together = render(scenes, 64)
    for i in range(0, 40, 5):
        alone = render(scenes.select(slice(i, i + 1)), 64)
        torch.testing.assert_close(alone[0], together[i], atol=2e-3, rtol=0)


def test_full_captions_name_everything_in_the_picture() -> None:
    scenes = sample_scenes(2000, seed=6)
    for i, (caption,) in enumerate(write_captions(scenes, seed=6, full=True)):
        assert any(word in caption for word in SYNONYMS[CLASSES[scenes.kind[i]]]), caption
        background = COLOR_NAMES[scenes.background[i]]
        phrases = PLACE_PHRASES[PLACES[scenes.place[i]]]
        phrases = [p.replace("a {background}", "a " + background) for p in phrases]
        phrases += [p.replace(" a ", " an ") for p in phrases]
        assert caption.endswith(tuple(phrases)), caption
        tables = (("pattern", PATTERNS), ("emblem", EMBLEMS), ("accessory", ACCESSORIES))
        said = [words[getattr(scenes, field)[i]] for field, words in tables]
        expected = [word for word in said if word not in ("none", "plain")]
        if STYLES[scenes.style[i]] == "photo":
            expected.append(COLOR_NAMES[scenes.main_color[i]])
            if PATTERNS[scenes.pattern[i]] != "plain":
                expected.append(COLOR_NAMES[scenes.second_color[i]])
        if scenes.name[i] >= 0:
            expected.append(NAMES[scenes.name[i]])
        assert all(word in caption for word in expected), (caption, expected)


def test_captions_say_nothing_untrue() -> None:
    scenes = sample_scenes(3000, seed=7)
    for i, group in enumerate(write_captions(scenes, seed=7, per_scene=2)):
        is_photo = STYLES[scenes.style[i]] == "photo"
        fields_of_colors = ("main_color", "second_color", "accent_color", "background")
        colors = (
            {COLOR_NAMES[getattr(scenes, f)[i]] for f in fields_of_colors} if is_photo else set()
        )
        for caption in group:
            text = caption.replace("a black and white photo", "")
            assert "{" not in text and "  " not in text and caption == caption.strip()
            words = set(text.split())
            assert words & set(COLORS) <= colors, caption
            assert words & set(PATTERNS[1:]) <= {PATTERNS[scenes.pattern[i]]}, caption
            assert words & set(EMBLEMS[1:]) <= {EMBLEMS[scenes.emblem[i]]}, caption
            worn = ACCESSORIES[scenes.accessory[i]]
            assert words & {"hat", "crown", "scarf", "glasses"} <= {worn}, caption
            named = NAMES[scenes.name[i]] if scenes.name[i] >= 0 else None
            assert words & set(NAMES) == ({named} if named else set()), caption
            assert not any(f" a {vowel}" in f" {text}" for vowel in "aeiou"), caption


def test_half_of_a_characters_captions_leave_its_looks_to_the_name(many: Scenes) -> None:
    photos = (many.name >= 0) & (many.style == 0) & (many.place != PLACES.index("plain"))
    scenes = many.select(photos).select(slice(0, 4000))
    words = set(COLORS) | set(PATTERNS) | set(EMBLEMS) | {"hat", "crown", "scarf", "glasses", "tie"}
    bare = [not set(c.split()) & words for (c,) in write_captions(scenes, seed=8)]
    assert 0.45 < sum(bare) / len(bare) < 0.62


def one_scene(count: int) -> Scenes:
    """A photo of a large thing seen straight, `count` times over."""
    scenes = sample_scenes(1, seed=12).select(torch.zeros(count, dtype=torch.long))
    return replace(
        scenes, view=torch.full_like(scenes.view, 0.5), style=torch.zeros_like(scenes.style)
    )


def closest(pictures: Tensor) -> float:
    """The smallest mean difference between any two pictures."""
    flat = pictures.flatten(1)
    return float(torch.pdist(flat, p=1).min() / flat.shape[1])


@pytest.mark.parametrize("place", PLACES)
def test_every_class_is_drawn_in_every_place(place: str) -> None:
    scenes = one_scene(len(CLASSES))
    scenes = replace(
        scenes,
        kind=torch.arange(len(CLASSES)),
        place=torch.full_like(scenes.place, PLACES.index(place)),
    )
    pictures = render(scenes, 64)
    assert pictures.shape == (len(CLASSES), 3, 64, 64)
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    assert closest(pictures) > 0.01


def test_every_place_looks_different() -> None:
    pictures = render(replace(one_scene(len(PLACES)), place=torch.arange(len(PLACES))), 64)
    assert closest(pictures) > 0.04


def test_edges_stay_a_pixel_wide_at_every_size() -> None:
    scenes = one_scene(len(PLACES) - 1)
    view = scenes.view.clone()
    view[:, 2], view[:, 3] = 0.0, 1.0  # a small thing far to the right, out of the way
    scenes = replace(scenes, place=torch.arange(len(PLACES) - 1), view=view)  # all but plain
    for size in (64, 256):
        left = render(scenes, size)[..., : size // 4]
        down = (left[..., 1:, :] - left[..., :-1, :]).abs().amax((1, 2, 3))
        across = (left[..., 1:] - left[..., :-1]).abs().amax((1, 2, 3))
        assert torch.maximum(down, across).min() > 0.08, size


@pytest.mark.parametrize(
    ("field", "words"),
    [("pattern", PATTERNS), ("emblem", EMBLEMS), ("accessory", ACCESSORIES), ("style", STYLES)],
)
def test_every_word_changes_the_picture(field: str, words: list[str]) -> None:
    base = replace(one_scene(len(CLASSES)), kind=torch.arange(len(CLASSES)))
    drawn = [
        render(replace(base, **{field: torch.full_like(base.kind, i)}), 64)
        for i in range(len(words))
    ]
    for i in range(len(words)):
        for j in range(i):
            moved = (drawn[i] - drawn[j]).abs().mean((1, 2, 3))
            assert moved.min() > 5e-4, (words[i], words[j], CLASSES[int(moved.argmin())])


@pytest.mark.parametrize("size", [64, 96, 128, 256])
def test_pictures_agree_across_sizes(size: int) -> None:
    scenes = sample_scenes(12, seed=13)
    scenes = replace(scenes, style=torch.zeros_like(scenes.style))
    small = render(scenes, 64)
    shrunk = torch.nn.functional.interpolate(render(scenes, size), (64, 64), mode="area")
    assert change(small, shrunk) < 0.02


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_keeps_its_identity_in_every_view(name: str) -> None:
    scenes = subject_scenes(name, ["snow", "beach"], seed=1, count=6)
    assert scenes.place.tolist() == [PLACES.index("snow"), PLACES.index("beach")] * 3
    later = subject_scenes(name, ["moon"], seed=2)
    for field in (*IDENTITY, "kind", "name"):
        values = getattr(scenes, field)
        assert (values == values[:1]).all() and torch.equal(values[:1], getattr(later, field))
    assert len({tuple(row) for row in scenes.view.tolist()}) == 6
    assert (scenes.view[:, 2] >= 0.5).all()
    assert (scenes.background != scenes.main_color).all()
    assert (scenes.background != scenes.second_color).all()


def test_subjects_differ_and_are_described() -> None:
    assert len(SUBJECTS) >= 12
    assert {subject.class_word for subject in SUBJECTS.values()} == set(CLASSES)
    mug = "A teal and orange two-tone mug with a yellow heart."
    assert SUBJECTS["sunrise-mug"].description == mug
    assert SUBJECTS["tiger-cat"].description == "An orange and white ringed cat."


def test_unknown_subjects_and_places_are_refused() -> None:
    with pytest.raises(StudioError, match=r"sunrise-mug.*got 'mug'"):
        subject_scenes("mug", ["snow"], seed=0)
    with pytest.raises(StudioError, match=r"snow.*got \['mars'\]"):
        subject_scenes("sunrise-mug", ["snow", "mars"], seed=0)
    with pytest.raises(StudioError, match="got none"):
        subject_scenes("sunrise-mug", [], seed=0)


def run_script(*arguments: str) -> None:
    """Run the entry script as a person would, in this process: importing torch again is slow."""
    script = str(TOP / "training" / "render_subjects.py")
    before, sys.argv = sys.argv, [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = before


def test_the_script_writes_photos_scenes_and_prompts(tmp_path: Path) -> None:
    run_script("--out", str(tmp_path), "--size", "64")
    for name, subject in SUBJECTS.items():
        assert len(list((tmp_path / name / "photos").glob("[0-4].*"))) == 10
        caption = f"a photo of a [V] {subject.class_word} on a wooden table\n"
        assert (tmp_path / name / "photos" / "0.txt").read_text() == caption
        card = json.loads((tmp_path / name / "subject.json").read_text())
        drawn = {path.stem for path in (tmp_path / name / "scenes").iterdir()}
        assert {scene["place"] for scene in card["scenes"]} == drawn and len(drawn) == 6
        assert all(f"[V] {card['class_word']}" in scene["prompt"] for scene in card["scenes"])


def test_the_script_refuses_a_picture_that_is_too_small(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_script("--out", str(tmp_path), "--size", "8")
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "--size must be 64 or more; got 8.\n"
