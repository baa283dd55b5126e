"""LLM-Adapters' rows, prompts and answers: to the blank, and on its real files where they are."""

import json
from pathlib import Path

import pytest

from nora_studio.errors import StudioError
from nora_studio.mini.everyday.questions import SETS
from nora_studio.tasks.commonsense.answers import LABELS, chance, extract_answer, offered
from nora_studio.tasks.commonsense.prompts import evaluation_prompt, response_in, training_prompt
from nora_studio.tasks.commonsense.rows import (
    digest,
    evaluation_rows,
    read_rows,
    split,
    training_rows,
)

PLAIN = {
    "instruction": "Is it?\n\nAnswer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}
ASKED = {**PLAIN, "input": "A text."}
FILES = ("boolq", "piqa", "social_i_qa", "winogrande", "ARC-Easy", "ARC-Challenge", "openbookqa")


@pytest.fixture(scope="module")
def real() -> Path:
    """The folder of the public sets."""
    for folder in Path(__file__).resolve().parents:
        found = folder / "shared" / "data" / "commonsense"
        if found.is_dir():
            return found
    pytest.skip("no shared/data/commonsense beside the project: the public files are not shipped")


def lines(*words: str) -> str:
    """Words as lines; ">" stands for the sixteen blanks of the original's indentation."""
    return "\n".join(line.replace(">", " " * 16) for line in words)


def test_the_training_prompt_is_the_originals_to_the_blank():
    head = "Below is an instruction that describes a task"
    task = ". Write a response that appropriately completes the request."
    assert training_prompt(PLAIN) == lines(
        f"{head}{task}  ",
        "",
        ">### Instruction:",
        ">Is it?",
        "",
        "Answer format: true/false",
        ">",
        ">### Response:",
        ">the correct answer is true",
    )
    context = ", paired with an input that provides further context"
    assert training_prompt(ASKED) == lines(
        f"{head}{context}{task} ",
        "",
        ">### Instruction:",
        ">Is it?",
        "",
        "Answer format: true/false",
        ">",
        ">### Input:",
        ">A text.",
        ">",
        ">### Response:",
        ">the correct answer is true",
    )


def test_the_evaluation_prompt_is_the_originals_to_the_blank():
    head = "Below is an instruction that describes a task"
    task = ". Write a response that appropriately completes the request."
    assert evaluation_prompt(PLAIN) == lines(
        f"{head}{task} ",
        "",
        ">### Instruction:",
        ">Is it?",
        "",
        "Answer format: true/false",
        "",
        ">### Response:",
        ">",
    )
    context = ", paired with an input that provides further context"
    assert evaluation_prompt(ASKED) == lines(
        f"{head}{context}{task}",
        "",
        ">### Instruction:",
        ">Is it?",
        "",
        "Answer format: true/false",
        "",
        ">### Input:",
        ">A text.",
        "",
        ">### Response:",
        ">",
    )


def test_a_prompt_without_its_answer_is_where_the_answer_begins():
    whole, begun = training_prompt(PLAIN), training_prompt(PLAIN, with_answer=False)
    assert whole == begun + PLAIN["output"]


def test_a_response_is_what_follows_the_heading_up_to_the_next():
    text = evaluation_prompt(PLAIN) + " the correct answer is true\n"
    assert response_in(text) == "the correct answer is true"
    assert response_in(text + "### Response: the correct answer is false") == (
        "the correct answer is true"
    )


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("boolq", "the correct answer is false, not true", "false"),
        ("boolq", "True", ""),
        ("piqa", "solution3 solution2", "solution2"),
        ("social_i_qa", "the correct answer is answer12", "answer1"),
        ("hellaswag", "ending4ending1", "ending4"),
        ("winogrande", "answer1", ""),
        ("ARC-Easy", "answer5", "answer5"),
    ],
)
def test_the_first_label_that_stands_there_is_the_answer(name, text, label):
    assert extract_answer(name, text) == label


def test_every_real_row_can_be_read_and_answered(real):
    found = evaluation_rows(str(real))
    assert list(found) == [name for name in SETS if name in FILES]
    for name, rows in found.items():
        for row in rows:
            assert row["output"] == f"the correct answer is {row['answer']}"
            assert extract_answer(name, row["output"]) == row["answer"]
            assert row["answer"] in offered(row) and set(offered(row)) <= set(LABELS[name])
    assert chance("boolq", found["boolq"]) == 0.5
    assert 0.24 < chance("ARC-Challenge", found["ARC-Challenge"]) < 0.26
    assert set(training_rows(str(real))) == {"ARC-Challenge", "ARC-Easy", "openbookqa"}


def test_a_limit_takes_the_first_and_named_sets_alone(real):
    found = evaluation_rows(str(real), ("piqa", "boolq"), limit=3)
    assert {name: len(rows) for name, rows in found.items()} == {"boolq": 3, "piqa": 3}
    with pytest.raises(StudioError, match=r"lacks hellaswag/test\.json"):
        evaluation_rows(str(real), ("hellaswag",))


def test_bad_files_are_refused_in_one_line(tmp_path):
    file = tmp_path / "rows.json"
    for text, said in (
        ("[{}]", "row 0 is"),
        ('{"a": 1}', "must be a list"),
        ("[", "is not valid JSON"),
        (json.dumps([PLAIN, {**PLAIN, "answer": 3}]), "row 1 is"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(StudioError, match=said):
            read_rows(file)
    with pytest.raises(StudioError, match="expected 'embedded', a folder of sets"):
        evaluation_rows(str(tmp_path))
    with pytest.raises(StudioError, match="cannot be read"):
        read_rows(tmp_path / "none.json")


def test_kept_out_questions_are_drawn_by_seed_and_trained_on_by_none():
    rows = [{**PLAIN, "instruction": str(number)} for number in range(50)]
    found = {"a": rows[:20], "b": rows[20:]}
    trained, kept_out = split(found, 7, seed=3)
    assert len(kept_out) == 7 and not {digest([r]) for r in trained} & {
        digest([r]) for r in kept_out
    }
    assert split(found, 7, seed=3) == (trained, kept_out)
    assert split(found, 7, seed=4)[1] != kept_out
    with pytest.raises(StudioError, match="fewer than the 50 questions"):
        split(found, 50, seed=0)
