"""The small everyday world: its facts, its texts, and its questions in the eight formats."""

import random
import re
from collections import Counter

import pytest

from nora_studio.mini.everyday.corpus import documents, quiz
from nora_studio.mini.everyday.facts import PARTS, all_facts, facts_of
from nora_studio.mini.everyday.phrases import statement, value_question
from nora_studio.mini.everyday.questions import SETS, questions
from nora_studio.mini.everyday.wording import WORDINGS
from nora_studio.tasks.commonsense.answers import extract_answer, offered

FRAMES = {
    "boolq": r"Please answer the following question with true or false, question: .+\?\n\n"
    r"Answer format: true/false",
    "piqa": r"Please choose the correct solution to the question: .+\n\nSolution1: .+\n\n"
    r"Solution2: .+\n\nAnswer format: solution1/solution2",
    "social_i_qa": r"Please choose the correct answer to the question: .+\n\nAnswer1: .+ "
    r"Answer2: .+ Answer3: .+\n\nAnswer format: answer1/answer2/answer3",
    "hellaswag": r"Please choose the correct ending to complete the given sentence: .+\n\n"
    r"Ending1: .+ Ending2: .+ Ending3: .+ Ending4: .+\n\n"
    r"Answer format: ending1/ending2/ending3/ending4",
    "winogrande": r"Please choose the correct answer to fill in the blank to complete the given "
    r"sentence: .*_.*\n\nOption1: .+ Option2: .+ Answer format: option1/option2",
}
ANSWERS = (
    r"Please choose the correct answer to the question: .+\n\nAnswer1: .+ Answer2: .+ Answer3: .+ "
    r"Answer4: .+\n\nAnswer format: answer1/answer2/answer3/answer4"
)


def test_every_fact_has_one_value_and_is_in_one_part():
    facts = all_facts()
    assert len(facts) > 2500 and len(facts) == len(set(facts))
    plain = [(f.subject, f.relation) for f in facts if f.relation not in ("heavier", "longer")]
    assert len(plain) == len(set(plain))
    share = Counter(fact.part for fact in facts)
    assert set(share) == set(PARTS) and share["test"] > len(facts) * 0.15
    for relation in ("heavier", "longer"):
        pairs = [frozenset((f.subject, f.value)) for f in facts_of(relation)]
        assert len(pairs) == len(set(pairs)), "a pair is compared both ways"


def test_the_corpus_states_the_facts_that_are_tested():
    text = "\n".join(documents(0, 20_000))
    draw = random.Random(0)
    tested = [f for f in all_facts() if f.part == "test" and "{n}" not in str(WORDINGS[f.relation])]
    said = [any(statement(draw, fact) in text for _ in range(20)) for fact in tested]
    assert sum(said) > 0.97 * len(said)


def test_no_quiz_of_the_corpus_asks_about_another_part():
    text = "\n".join(documents(0, 4000))
    for fact in all_facts():
        if fact.relation == "material" and fact.part != "quiz":
            asked = value_question(random.Random(0), fact, 2).question
            assert asked not in text


def test_texts_are_the_same_for_the_same_seed():
    assert list(documents(5, 50)) == list(documents(5, 50)) != list(documents(6, 50))


def test_a_quiz_ends_with_the_label_of_the_right_choice():
    fact = next(f for f in facts_of("material") if f.subject == "hammer")
    draw = random.Random(1)
    found = 0
    for _ in range(60):
        question, reply = quiz(draw, fact)
        if reply in (" yes", " no", " true", " false"):
            assert (" steel?" in question) == (reply in (" yes", " true"))
            continue
        label = re.escape(reply.strip())
        right = "steel" if "hammer made of?" in question else "a hammer"
        assert re.search(rf"\(?{label}[).:]? {right}(?![a-z])", question), (question, reply)
        found += 1
    assert found > 20


def test_quizzes_in_a_row_are_answered_with_the_labels_of_what_is_so():
    known = {f.subject: f.value for f in facts_of("material", "quiz")}
    found = 0
    for line in "\n".join(documents(3, 4000)).splitlines():
        asked = re.fullmatch(r"What (?:is|are) (?:an? )?(.+) made of\? (.+) Reply: (\w+)", line)
        if asked:
            label, value = asked[3], known[asked[1]]
            assert re.search(rf"\(?{label}[).:]+ {value}(?![a-z])", asked[2]), line
            found += 1
    assert found > 10


def test_doubts_in_a_row_have_the_right_answers():
    known = {f.subject: f.value for f in facts_of("material", "quiz")}
    form = r"(?:Is|Are) (?:an? )?(.+) made of (.+)\? (yes|no|true|false)"
    found: Counter = Counter()
    for text in documents(3, 4000):
        for line in text.splitlines() if text.startswith("Say ") else ():
            asked = re.fullmatch(form, line)
            if asked:
                assert (known[asked[1]] == asked[2]) == (asked[3] in ("yes", "true"))
                found[asked[3]] += 1
    assert len(found) == 4


@pytest.mark.parametrize("name", SETS)
def test_questions_have_the_public_files_wording(name):
    rows = questions(name, "test", 60)
    assert len(rows) > 40
    for row in rows:
        assert re.fullmatch(FRAMES.get(name, ANSWERS), row["instruction"]), row["instruction"]
        assert row["output"] == f"the correct answer is {row['answer']}" and row["input"] == ""
        assert extract_answer(name, row["output"]) == row["answer"]
        assert row["answer"] in offered(row)
    counts = Counter(row["answer"] for row in rows)
    assert len(set(counts.values())) == 1, "a constant answer would beat a guess"
    assert questions(name, "test", 60) == rows


@pytest.mark.parametrize("name", SETS)
def test_no_test_question_is_a_training_question(name):
    train = {row["instruction"] for row in questions(name, "train", 300)}
    assert not train & {row["instruction"] for row in questions(name, "test", 100)}


def test_a_question_touches_facts_of_its_own_part_alone():
    train = {f.subject for f in facts_of("material", "train")}
    for row in questions("ARC-Challenge", "test", 200):
        found = re.search(r"made of .+\?\n\nAnswer1: (.+)\n\n", row["instruction"])
        if found:
            named = set(re.split(r" ?Answer\d: ", found[1]))
            assert not {re.sub("^an? ", "", name) for name in named} & train
