"""A blind test hides the sides until its end, and its verdict is the sign test's."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from nora_studio.app.pages.blind_panel import pairs_of
from nora_studio.app.pages.blind_view import blind_view
from nora_studio.app.server.blind_storage import create_test, find_tests, pair_images, save_test
from nora_studio.app.server.blind_test import verdict_of
from nora_studio.app.server.image_jobs import new_image_job, write_image_job
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.sdxl.generate import save_image
from nora_studio.sdxl.recipes import Recipe

LABELS = ("base", "LoRA", "NoRA")
PROMPTS = tuple(f"a photo of a [V] mug in place {n}" for n in range(8))
LEVELS = {"base": 10, "LoRA": 90, "NoRA": 170}


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    return Workspace.open(tmp_path, "a" * 32)


@pytest.fixture
def sheet(workspace):
    """A finished drawing of three columns, whose pictures are told apart by their level."""
    columns = [{"label": label} for label in LABELS]
    view = {"layout": "columns"}
    sheet = new_image_job(workspace, {"columns": columns, "prompts": list(PROMPTS)}, view)
    files = {}
    for c, label in enumerate(LABELS):
        for p, prompt in enumerate(PROMPTS):
            name = f"{label.lower()}/{p}.png"
            noise = np.random.default_rng(p).integers(0, 40, (16, 16, 3), np.uint8)
            recipe = Recipe("tiny", prompt, 0, 1, 1.0, 16, "0", adapter=label, method=label)
            picture = Image.fromarray(noise + np.uint8(LEVELS[label]))
            save_image(picture, sheet.folder(workspace) / name, recipe)
            files[c, p, 0] = name
    sheet = replace(sheet, state="finished", files=files)
    write_image_job(workspace, sheet)
    return sheet


def truth(file) -> str:
    """Whose picture a file really is."""
    level = int(np.asarray(Image.open(file)).min())
    return max((label for label in LABELS if LEVELS[label] <= level), key=LEVELS.__getitem__)


def judged(test, choose):
    for trial in test.trials:
        test = test.answer(choose(trial))
    return test


def favour(label):
    return lambda trial: {trial.left: "left", trial.right: "right"}.get(label, "tie")


def test_each_row_is_judged_once_with_decoys_and_random_sides(workspace, sheet):
    test = create_test(workspace, sheet, "NoRA", "LoRA", seed=3)
    main = [trial for trial in test.trials if trial.labels == {"NoRA", "LoRA"}]
    decoys = [trial for trial in test.trials if "base" in trial.labels]
    assert sorted(trial.prompt for trial in main) == sorted(PROMPTS)
    assert [trial.labels for trial in decoys].count(frozenset({"base", "NoRA"})) == 1
    assert [trial.labels for trial in decoys].count(frozenset({"base", "LoRA"})) == 1
    assert {trial.left for trial in main} == {"NoRA", "LoRA"}
    sides = {
        tuple((t.left, t.right) for t in create_test(workspace, sheet, "NoRA", "LoRA").trials)
        for _ in range(5)
    }
    assert len(sides) == 5
    for number, trial in enumerate(test.trials):
        assert [truth(file) for file in pair_images(workspace, test, number)] == [
            trial.left, trial.right,
        ]  # fmt: skip


def test_nothing_sent_to_the_page_reveals_the_sides(workspace, sheet):
    test = create_test(workspace, sheet, "NoRA", "LoRA")
    pages = []
    for number in range(len(test.trials)):
        pages.append(blind_view(test, sheet, workspace))
        for file in pair_images(workspace, test, number):
            assert re.fullmatch(r"[0-9a-f]{16}\.png", file.name)
            assert file.stat().st_mtime == 0
            with Image.open(file) as image:
                assert not image.info
            assert b"NoRA" not in file.read_bytes()
        if number < len(test.trials) - 1:
            test = test.answer("left")
    for page in pages:
        assert not re.search(r"nora|lora|base", page, re.IGNORECASE)
    # What holds the key is hidden, and hidden files are not served.
    key = next(sheet.folder(workspace).rglob("*.json*"))
    keys = [file for file in sheet.folder(workspace).rglob("*") if file.name == ".test.json"]
    assert len(keys) == 1 and key.name in ("drawing.json", ".test.json")


def test_the_sides_are_revealed_at_the_end_and_not_before(workspace, sheet):
    test = create_test(workspace, sheet, "NoRA", "LoRA", seed=1)
    almost = test
    for trial in test.trials[:-1]:
        almost = almost.answer(favour("NoRA")(trial))
    with pytest.raises(StudioError, match="every pair"):
        verdict_of(almost)
    over = judged(test, favour("NoRA"))
    page = blind_view(over, sheet, workspace)
    assert "NoRA" in page and "chosen" in page
    assert "prompts and seeds of one subject" in page
    with pytest.raises(StudioError, match="has ended"):
        over.answer("left")
    with pytest.raises(StudioError, match="no answer to undo"):
        over.undo()


def test_the_verdict_counts_wins_ties_and_missed_decoys(workspace, sheet):
    test = create_test(workspace, sheet, "NoRA", "LoRA", seed=2)
    found = verdict_of(judged(test, favour("NoRA")))
    # The decoy of LoRA and base is a tie for who favours NoRA: it was missed.
    assert (found.first_wins, found.second_wins, found.ties) == (8, 0, 0)
    assert (found.decoys, found.missed) == (2, 1)
    assert found.p == pytest.approx(2 / 2**8)
    assert found.sentence.startswith("You prefer NoRA")
    assert found.caution == "1 of 2 decoys were mistaken for the adapter: treat this with care."
    ties = verdict_of(judged(test, lambda trial: "tie"))
    assert (ties.first_wins, ties.second_wins, ties.ties, ties.missed) == (0, 0, 8, 2)
    assert ties.sentence.startswith("Too few choices")
    real = judged(test, lambda trial: "left" if trial.right == "base" else "right")
    assert verdict_of(real).caution is None
    assert "No preference" in verdict_of(real).sentence or verdict_of(real).p < 0.05


def test_a_test_continues_after_a_restart_and_answers_can_be_undone(workspace, sheet):
    test = create_test(workspace, sheet, "NoRA", "LoRA")
    save_test(workspace, test.answer("left").answer("tie"))
    (found,) = find_tests(workspace, sheet)
    assert found.answers == ("left", "tie")
    assert found.undo().answers == ("left",)
    assert replace(found, answers=()) == test
    over = judged(test, favour("LoRA"))
    save_test(workspace, over)
    (found,) = find_tests(workspace, sheet)
    assert found == over
    (file,) = sheet.folder(workspace).rglob(".test.json")
    assert json.loads(file.read_text())["verdict"]["second_wins"] == 8
    file.write_text("{")
    assert find_tests(workspace, sheet) == []


def test_impossible_tests_are_refused(workspace, sheet):
    with pytest.raises(StudioError, match="two different columns"):
        create_test(workspace, sheet, "NoRA", "NoRA")
    with pytest.raises(StudioError, match="two different columns"):
        create_test(workspace, sheet, "NoRA", "DoRA")
    with pytest.raises(StudioError, match="no prompt and seed has an image of both"):
        create_test(workspace, replace(sheet, files={}), "NoRA", "LoRA")
    with pytest.raises(StudioError, match="left, right or tie"):
        create_test(workspace, sheet, "NoRA", "LoRA").answer("both")
    assert create_test(workspace, sheet, "NoRA", "base", decoy="base").decoy is None
    assert pairs_of(sheet) == []  # columns without adapters
