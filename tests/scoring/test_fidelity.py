"""The recommended point has the best balance, and the advice states its certainty."""

import random
from dataclasses import replace

import pytest

from nora_studio.errors import StudioError
from nora_studio.scoring.fidelity import (
    Fidelity,
    FidelityPoint,
    Score,
    as_json,
    pareto_front,
    read_fidelity,
    recommend,
    with_recommendations,
)
from nora_studio.scoring.fidelity_text import advice, fidelity_table

UNITS = 6
EVEN = (0.0,) * UNITS


def point(subject: float, prompt: float, jitter=EVEN, run="mug-nora", **changes) -> FidelityPoint:
    scores = {
        "CLIP-T": Score(tuple(prompt + j for j in jitter), prompt - 0.02, prompt + 0.02),
        "CLIP-I": Score(tuple(subject - j for j in jitter), subject - 0.02, subject + 0.02),
    }
    plain = FidelityPoint(run, "nora", 100, False, f"runs/{run}", 1.0, scores, 0.9, 0.0, ("a.png",))
    return replace(plain, **changes)


def result_of(*points: FidelityPoint, **changes) -> Fidelity:
    """The base at (0.4, 0.6), real photos at (0.8, 0.2): subject, prompt."""
    plain = Fidelity(
        planned=len(points),
        prompts=tuple(f"prompt {n}" for n in range(UNITS)),
        seeds=(0,),
        photos="photos/mug",
        photo_count=5,
        clip="embedded",
        dino=None,
        base=point(0.4, 0.6, run="base"),
        real={"CLIP-T": (0.2,) * UNITS, "CLIP-I": (0.8,) * UNITS},
        points=points,
    )
    return replace(plain, **changes)


def test_shares_run_from_the_base_to_the_photos_and_the_balance_is_their_harmonic_mean():
    found = recommend(result_of(point(0.7, 0.5)), [0])
    assert found.subject_share == pytest.approx(0.75)
    assert found.prompt_share == pytest.approx(0.75)
    assert found.balance == pytest.approx(0.75)
    found = recommend(result_of(point(0.6, 0.6)), [0])
    assert found.balance == pytest.approx(2 * 0.5 * 1.0 / 1.5)


def test_the_best_balance_wins_over_the_best_single_score():
    loud, middle, quiet = point(0.79, 0.3), point(0.7, 0.5), point(0.5, 0.59)
    for order in ([loud, middle, quiet], [quiet, middle, loud]):
        assert recommend(result_of(*order), [0, 1, 2]).point == 1
    assert recommend(result_of(loud, middle, quiet), [0, 2]).point in (0, 2)


def test_similarity_beyond_the_photos_own_counts_no_more():
    copying, true = point(0.95, 0.45), point(0.8, 0.46)
    found = recommend(result_of(copying, true), [0, 1])
    assert found.point == 1


def test_the_recommended_point_lies_on_the_front():
    generator = random.Random(0)
    for _ in range(50):
        marks = [(generator.uniform(0.41, 0.79), generator.uniform(0.21, 0.59)) for _ in range(9)]
        result = with_recommendations(result_of(*(point(*mark) for mark in marks)))
        assert result.recommended["mug-nora"].point in result.front
        for number, (subject, prompt) in enumerate(marks):
            beaten = any(s > subject and p > prompt for s, p in marks)
            assert (number in result.front) == (not beaten)


def test_equal_points_do_not_beat_each_other():
    assert pareto_front([(1.0, 2.0), (1.0, 2.0), (0.5, 2.0), (2.0, 1.0)]) == [3, 0, 1]


def test_a_clear_choice_is_certain_and_a_close_one_names_its_rival():
    clear = recommend(result_of(point(0.7, 0.5), point(0.5, 0.3)), [0, 1])
    assert clear.wins == 1.0
    assert clear.rivals == ()
    jitter = (0.09, -0.09, 0.08, -0.07, 0.06, -0.08)
    mirrored = tuple(-j for j in jitter)
    close = result_of(
        point(0.7, 0.5, jitter), point(0.699, 0.501, mirrored), point(0.45, 0.55), planned=3
    )
    close = with_recommendations(replace(close, base=point(0.4, 0.6, run="base")))
    found = close.recommended["mug-nora"]
    assert found.rivals in ((0,), (1,))
    assert 0.2 < found.wins < 0.8
    assert recommend(close, [0, 1, 2]) == found  # The same every time.


def test_each_run_gets_its_own_recommendation():
    result = with_recommendations(result_of(point(0.7, 0.5), point(0.6, 0.4, run="mug-lora")))
    assert {run: one.point for run, one in result.recommended.items()} == {
        "mug-nora": 0,
        "mug-lora": 1,
    }
    assert set(result.front) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"real": {"CLIP-T": (0.2,) * UNITS, "CLIP-I": (0.4,) * UNITS}}, "another judge"),
        ({"real": {"CLIP-T": (0.6,) * UNITS, "CLIP-I": (0.8,) * UNITS}}, "none of the photos"),
        ({"points": (point(0.39, 0.61), point(0.9, 0.1))}, "Train longer"),
    ],
)
def test_without_distinct_ends_there_is_a_reason_and_no_recommendation(changes, word):
    result = result_of(point(0.7, 0.5), **changes)
    with pytest.raises(StudioError, match=word):
        recommend(result, range(len(result.points)))
    told = with_recommendations(result)
    assert not told.recommended
    assert word in advice(told, "mug-nora")


def test_dino_judges_the_subject_if_it_was_used():
    seen = point(0.5, 0.5)
    seen = replace(seen, scores=seen.scores | {"DINO": Score((0.3,) * UNITS)})
    base = point(0.4, 0.6, run="base")
    base = replace(base, scores=base.scores | {"DINO": Score((0.1,) * UNITS)})
    result = result_of(seen, dino="facebook/dino-vits16", base=base)
    result = replace(result, real=result.real | {"DINO": (0.5,) * UNITS})
    assert recommend(result, [0]).subject_share == pytest.approx(0.5)


def test_a_result_reads_back_as_it_was_written(tmp_path):
    result = with_recommendations(result_of(point(0.7, 0.5), point(0.6, 0.4, run="mug-lora")))
    (tmp_path / "fidelity.json").write_text(as_json(result))
    assert read_fidelity(tmp_path) == result
    for text in ("{", "[]", "{}", as_json(result).replace("units", "unit")):
        (tmp_path / "fidelity.json").write_text(text)
        with pytest.raises(StudioError, match="Measure again"):
            read_fidelity(tmp_path)


def test_the_advice_names_the_point_and_its_certainty():
    last = point(0.7, 0.5, step=400, strength=0.8, is_final=True)
    other = point(0.45, 0.3, step=200, strength=1.0)
    told = advice(with_recommendations(result_of(other, last)), "mug-nora")
    assert "step 400, the final adapter, at strength 0.8" in told
    assert told.count("75%") == 2
    assert "100% of the time" in told
    assert "copying" not in told
    copied = with_recommendations(result_of(replace(last, copies=0.5)))
    assert "50% of its images are nearer to one photo" in advice(copied, "mug-nora")


def test_few_prompts_are_called_a_first_estimate():
    four = {"CLIP-T": Score((0.5,) * 4), "CLIP-I": Score((0.7,) * 4)}
    base = {"CLIP-T": Score((0.6,) * 4), "CLIP-I": Score((0.4,) * 4)}
    result = result_of(
        replace(point(0.7, 0.5), scores=four),
        prompts=("a", "b", "c", "d"),
        base=replace(point(0.4, 0.6), scores=base),
        real={"CLIP-T": (0.2,) * 4, "CLIP-I": (0.8,) * 4},
    )
    assert "4 prompts are few" in advice(with_recommendations(result), "mug-nora")


def test_the_table_holds_the_base_every_point_in_order_and_the_photos():
    points = [point(0.7, 0.5, strength=1.0), point(0.6, 0.55, strength=0.6), point(0.5, 0.3)]
    table = fidelity_table(with_recommendations(result_of(*points)))
    assert [row[0] for row in table] == ["", "base", *["mug-nora"] * 3, "real photos"]
    assert [row[2] for row in table[2:5]] == ["0.6", "1", "1"]
    assert table[3][3:5] == ["0.500 (0.480 to 0.520)", "0.700 (0.680 to 0.720)"]
    assert [row[-1] for row in table[2:5]] == ["on the front", "recommended", ""]
