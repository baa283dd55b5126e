"""Asking a model: batches that answer as one by one, likelihoods, and answers that survive."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from support.language import load, some_rows, tiny_llama
from support.places import TOP

from nora_studio.errors import StudioError
from nora_studio.mini.everyday.questions import SETS
from nora_studio.tasks.commonsense.generation import (
    SCORINGS,
    Answer,
    Model,
    Question,
    batches,
    choose_likeliest,
    generate,
)
from nora_studio.tasks.commonsense.harness import evaluate_with_harness
from nora_studio.tasks.commonsense.prompts import evaluation_prompt
from nora_studio.tasks.commonsense.results import (
    append_answers,
    drop_partial_line,
    format_report,
    read_answers,
    summary,
)

SCRIPT = TOP / "evaluation" / "commonsense.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(folder) -> Model:
    decoder, tokenizer = load(folder)
    tokenizer.padding_side = "left"
    return Model(decoder, tokenizer, torch.device("cpu"))


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return [Question(SETS[n % 8], n, row) for n, row in enumerate(some_rows(6))]


def test_a_batch_is_answered_as_if_each_were_alone(model, asked):
    lengths = {len(model.tokenizer(evaluation_prompt(q.row)).input_ids) for q in asked}
    assert len(lengths) > 3, "nothing would be padded"
    together = generate(model, asked)
    alone = [generate(model, [question])[0] for question in asked]
    assert together == alone
    assert len({answer.output for answer in together}) > 3, "all say the same"


def test_without_the_mask_a_batch_would_answer_otherwise(model, asked):
    """What the test above would not see if padding did no harm."""
    prompts = [evaluation_prompt(question.row) for question in asked]
    encoded = model.tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model.decoder(
            encoded.input_ids, attention_mask=torch.ones_like(encoded.input_ids)
        ).logits
        masked = model.decoder(**encoded).logits
    shortest = int(encoded.attention_mask.sum(dim=1).argmin())
    assert not torch.allclose(logits[shortest, -1], masked[shortest, -1], atol=1e-2)


def test_the_likeliest_label_is_that_of_the_summed_log_likelihoods(model, asked):
    for question in asked[:4]:
        (answer,) = choose_likeliest(model, [question])
        prompt = evaluation_prompt(question.row)
        labels = question.row["instruction"].rpartition("format: ")[2].split("/")
        begin = len(model.tokenizer(prompt).input_ids)
        scores = {}
        for label in labels:
            ids = model.tokenizer(f"{prompt}the correct answer is {label}").input_ids
            with torch.no_grad():
                log = model.decoder(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores[label] = sum(float(log[n - 1, ids[n]]) for n in range(begin, len(ids)))
        assert answer.prediction == max(scores, key=lambda label: scores[label])
    assert choose_likeliest(model, asked) == [choose_likeliest(model, [q])[0] for q in asked]


def test_long_questions_come_first_and_none_is_left_out(model, asked):
    made = list(batches(asked, 3, model.tokenizer))
    lengths = [len(model.tokenizer(evaluation_prompt(q.row)).input_ids) for b in made for q in b]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == len(asked)


def test_a_line_cut_short_costs_one_answer(tmp_path, model, asked):
    file = tmp_path / "answers-0-of-1.jsonl"
    answers = SCORINGS["likelihood"](model, asked[:3])
    append_answers(file, answers)
    file.write_bytes(file.read_bytes()[:-9])
    assert len(read_answers(tmp_path)) == 2
    drop_partial_line(file)
    append_answers(file, answers[2:])
    assert list(read_answers(tmp_path).values()) == answers


def test_the_average_counts_every_set_the_same():
    row = some_rows(1)[0]
    rows = {"boolq": [row] * 4, "piqa": [row] * 1}
    right = {"name": "boolq", "output": "", "prediction": "true", "answer": "true"}
    answers = {("boolq", n): Answer(**right, number=n) for n in range(4)}
    answers["piqa", 0] = Answer("piqa", 0, "", "", "solution1")
    found = summary(rows, answers)
    assert found["accuracy"] == {"boolq": 1.0, "piqa": 0.0} and found["average"] == 0.5
    assert len(found["absent"]) == 6
    assert "2 of eight" in format_report(found) and "winogrande" in format_report(found)


def run_script(*arguments: str) -> int:
    before = sys.argv
    sys.argv = [str(SCRIPT), *arguments]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    finally:
        sys.argv = before
    raise AssertionError("no exit status")


def test_shards_make_the_whole_and_a_restart_asks_nothing_twice(folder, tmp_path, capsys):
    plain = ["--model", str(folder), "--scoring", "likelihood", "--sets", "boolq", "piqa"]
    plain += ["--limit", "3", "--batch-size", "2"]
    assert run_script(*plain, "--out", str(tmp_path / "whole")) == 0
    parts = tmp_path / "parts"
    assert run_script(*plain, "--out", str(parts), "--shard", "1/2") == 0
    assert "3 of 6 questions" in capsys.readouterr().out
    assert run_script(*plain, "--out", str(parts), "--shard", "0/2") == 0
    results = [(f / "results.json").read_text() for f in (tmp_path / "whole", parts)]
    assert results[0] == results[1] and json.loads(results[0])["answered"] == 6

    file = tmp_path / "whole" / "answers-0-of-1.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    assert run_script(*plain, "--out", str(tmp_path / "whole")) == 0
    assert sorted(file.read_text().splitlines(keepends=True)) == sorted(lines)
    assert file.read_text().startswith("".join(lines[:4]))


def test_answers_to_other_questions_are_not_mixed_in(folder, tmp_path, capsys):
    plain = ["--model", str(folder), "--scoring", "likelihood", "--out", str(tmp_path / "out")]
    assert run_script(*plain, "--sets", "boolq", "--limit", "1") == 0
    assert run_script(*plain, "--sets", "boolq", "--limit", "2") == 2
    assert "was started with questions" in capsys.readouterr().err
    assert run_script(*plain, "--shard", "4/4") == 2
    assert "--shard: expected PART/PARTS" in capsys.readouterr().err


TASK = """task: one_world
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: ["true", "false"]
doc_to_target: "{{{{label}}}}"
metric_list:
  - metric: acc
"""


@pytest.mark.slow
def test_the_harness_asks_the_model_by_its_own_api(model, tmp_path, monkeypatch):
    """On a task of its own format, whose data lie on this disk."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[eval]'")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "rows.json"
    texts = [question.row["instruction"] for question in some_questions()]
    file.write_text("".join(json.dumps({"text": t, "label": 0}) + "\n" for t in texts))
    (tmp_path / "one_world.yaml").write_text(TASK.format(file=file))
    found = evaluate_with_harness(model, ["one_world"], 2, include=tmp_path)
    right = 0
    for text in texts:
        begun = model.tokenizer(text).input_ids
        scores = []
        for word in (" true", " false"):
            ids = begun + model.tokenizer(word, add_special_tokens=False).input_ids
            with torch.no_grad():
                log = model.decoder(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores.append(sum(float(log[n - 1, ids[n]]) for n in range(len(begun), len(ids))))
        right += scores[0] > scores[1]
    assert found["one_world"]["acc,none"] == pytest.approx(right / len(texts))
    with pytest.raises(StudioError, match="has no task 'no_such'"):
        evaluate_with_harness(model, ["no_such"], 2)


def some_questions() -> list[Question]:
    return [Question(SETS[n % 8], n, row) for n, row in enumerate(some_rows(5))]


def test_without_the_harness_the_option_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(StudioError, match=r"nora-studio\[eval\]"):
        evaluate_with_harness(model, ["piqa"], 4)
