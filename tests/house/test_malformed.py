"""No malformed input ends in a traceback, a wrong exit status, or a remedy that does not apply."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support.malformed import Case
from support.malformed_adapters import adapters
from support.malformed_options import numbers, options_files
from support.malformed_photos import captions, photos
from support.malformed_runs import requests, run_folders
from support.trainer import SCRIPT, Outcome, run_trainer

from nora_studio.app.server.image_requests import parse_request
from nora_studio.cli import main as cli
from nora_studio.errors import StudioError

CASES: list[Case] = [
    *options_files(),
    *numbers(),
    *photos(),
    *captions(),
    *adapters(),
    *run_folders(),
    *requests(),
]
FEWEST = 400
LONGEST_LINE = 1_000
"""Letters of one line that somebody is still able to read."""


def run(case: Case, capfd: pytest.CaptureFixture[str], monkeypatch) -> Outcome:
    """What a case's command answers."""
    if case.command == "request":
        return request(case.words[0])
    if case.command in ("train", "clip_fewshot", "llama_commonsense"):
        name = {"train": SCRIPT.name}.get(case.command, f"{case.command}.py")
        return run_trainer(*case.words, script=SCRIPT.with_name(name))
    monkeypatch.setattr(sys, "argv", ["nora-studio", case.command, *case.words])
    capfd.readouterr()
    status: Any
    try:
        status = cli.main()
    except SystemExit as end:
        status = end.code
    told = capfd.readouterr()
    return Outcome(status, told.out, told.err)


def request(text: str) -> Outcome:
    """What the drawing server says of a line; reading it must not take the server down."""
    try:
        parse_request(json.loads(text))
    except (StudioError, ValueError, RecursionError) as error:
        is_ours = isinstance(error, StudioError)
        # tests/app/test_generation_server.py tests lines that are not JSON.
        line = str(error) if is_ours else "no JSON"
        return Outcome(2, "", f"error: {line}")
    return Outcome(0, "", "")


def faults(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with an answer; empty if nothing is."""
    told = outcome.out + outcome.err
    if case.command == "check-photos":
        return faults_of_report(case, outcome)
    found = []
    if "Traceback" in told:
        found.append("a traceback")
    wanted = {"refused": (2,), "well": (0,), "either": (0, 2)}[case.ends]
    if outcome.status not in wanted:
        found.append(f"ends with {outcome.status}")
    if outcome.status == 2:
        by_parser = (not outcome.errors and "Parsing error" in told) or "Required options" in told
        line = outcome.errors[0] if outcome.errors else told
        if not by_parser and len(outcome.errors) != 1:
            found.append(f"{len(outcome.errors)} lines of error")
        if len(line) > LONGEST_LINE and not by_parser:
            found.append("a line too long to read")
        if case.says and not any(word in line for word in case.says) and "no JSON" not in line:
            found.append("it names none of " + ", ".join(case.says))
        found += [f"it speaks of {word!r}" for word in case.never if word in line]
    elif case.ends == "well" and case.says and not any(word in told for word in case.says):
        found.append("it names none of " + ", ".join(case.says))
    return found


def faults_of_report(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with a report of findings: a line each, 1 for warnings, 2 for what is unusable.

    The golden photos have warnings of their own.
    """
    lines = (outcome.out + outcome.err).splitlines()
    found = ["a traceback"] if any("Traceback" in line for line in lines) else []
    wanted = {"refused": (2,), "well": (0, 1), "either": (0, 1, 2)}[case.ends]
    if outcome.status not in wanted:
        found.append(f"ends with {outcome.status}")
    bad = [line for line in lines if line.startswith(("unusable: ", "error: "))]
    if outcome.status == 2 and not any(word in line for line in bad for word in case.says):
        found.append("no line names " + ", ".join(case.says))
    if case.ends == "well" and any("b.png: has no caption" in line for line in lines):
        found.append("the caption was not used")
    return found


def test_the_list_is_long_and_has_every_class():
    assert len(CASES) >= FEWEST
    assert len({case.name for case in CASES}) == len(CASES), "a case stands twice"
    assert {case.kind for case in CASES} == {
        "options file", "number", "photo", "caption", "adapter", "run folder", "request",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_one_line_that_says_what_to_do(case, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    case.build()
    before = {path for path in Path().rglob("*") if path.is_file()}
    outcome = run(case, capfd, monkeypatch)
    assert faults(case, outcome) == [], outcome.out + outcome.err
    left = {path for path in Path().rglob("*") if path.is_file()} - before
    if outcome.status == 2 and case.command != "train":
        assert not left, "what was refused wrote nothing"
