"""Tables of results: every pair, the right intervals, one rule for rates, shipped records."""

import json
import re
import runpy
import statistics
import sys
from itertools import combinations

import pytest
from reference import student_half_width
from support.places import TOP

from nora_studio.errors import StudioError
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options, to_toml
from nora_studio.runs.runs import Run
from nora_studio.scoring.sweep_table import page as sweep_page
from nora_studio.scoring.sweep_table import results_of
from nora_studio.scoring.tables import AT_EDGE, NOT_SEARCHED, rate_caveat
from nora_studio.tasks.commonsense import table as table1
from nora_studio.tasks.commonsense.rows import SETS
from nora_studio.tasks.fewshot import table as table2
from nora_studio.tasks.fewshot.methods import METHODS

ASSETS = TOP / "assets"
SWEEPS = ("lora", "nora", "lora-without-captions", "nora-without-captions")
TRAINED = [name for name, method in METHODS.items() if method.trains]


def record_of(file: str) -> dict:
    return json.loads((ASSETS / file).read_text(encoding="utf-8"))


def rows_of(page: str, after: str = "") -> dict[str, list[str]]:
    """The rows of the first Markdown table behind a heading, by their first cell."""
    lines = page[page.index(after) :].split("\n")
    start = next(n for n, line in enumerate(lines) if line.startswith("|---"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start + 1 :]]
    ends = next((n for n, row in enumerate(rows) if len(row) < 2), len(rows))
    return {first: cells for first, *cells in rows[:ends]}


def told(values: list[float], digits: int) -> str:
    """A difference as a page should have it, by the reference."""
    mean, half = statistics.fmean(values), student_half_width(values)
    text = f"{mean:+.{digits}f}".replace("-", "−")
    text = text[1:] if float(text[1:]) == 0 else text
    words = "" if abs(mean) > half else ": no difference shown"
    return f"{text} ± {half:.{digits}f}{words}"


def test_the_shipped_table_1_matches_its_record_and_the_reference():
    record = record_of("table1/table1.json")
    page = (ASSETS / "table1" / "table1.md").read_text(encoding="utf-8")
    assert page == table1.page(record)
    values: dict[str, dict[int, float]] = {}
    for cell in record["cells"]:
        seeds = [cell["seed"]] if "parameters" in cell else [0, 1, 2]
        values.setdefault(cell["label"], {}).update(dict.fromkeys(seeds, 100 * cell["average"]))
    found = rows_of(page, "### Differences")
    assert len(found) == 15
    for second, first in combinations(values, 2):
        deltas = [values[first][s] - values[second][s] for s in (0, 1, 2)]
        assert found[f"{first} − {second}"] == [told(deltas, 1)]
    for label, own in rows_of(page).items():
        seeds = list(values.get(label, {}).values())
        half = f" ± {student_half_width(seeds):.1f}" if label not in ("guessing", "base") else ""
        mean = statistics.fmean(seeds) if seeds else 35.4
        assert own[9].replace("**", "") == f"{mean:.1f}{half}"


def test_the_shipped_table_2_matches_its_record_and_the_reference():
    record = record_of("table2/table2.json")
    page = (ASSETS / "table2" / "table2.md").read_text(encoding="utf-8")
    assert page == table2.page(record)
    values: dict[tuple[str, int], dict[int, float]] = {}
    for cell in record["cells"]:
        own = values.setdefault((cell["method"], cell["shots"]), {})
        own[cell["seed"]] = 100 * cell["accuracy"]
    found, shots = rows_of(page, "### Differences"), (1, 2, 4, 8, 16)
    assert len(found) == 28
    for second, first in combinations(record["rates"], 2):
        assert found[f"{first} − {second}"] == [
            told([values[first, n][s] - values[second, n][s] for s in (1, 2, 3)], 1) for n in shots
        ]
    for method, own in rows_of(page).items():
        for n, cell in zip(shots, own[1:6], strict=True):
            seeds = list(values[method, n].values())
            half = f" ± {student_half_width(seeds):.1f}" if method != "zero-shot" else ""
            plain = re.sub(r"\*\*|</?u>", "", cell)
            assert plain == f"{statistics.fmean(seeds):.1f}{half}"


def test_the_shipped_sweep_matches_its_record_and_the_reference():
    records = {name: record_of(f"sweep/{name}.json") for name in SWEEPS}
    page = (ASSETS / "sweep" / "sweep.md").read_text(encoding="utf-8")
    assert page == sweep_page(records)
    subjects = ("sunrise-mug", "tiger-cat", "star-backpack")
    means = {}
    for name, record in records.items():
        for result in record["results"]:
            own = [t for t in record["trials"] if t["candidate"] == result["candidate"]]
            for score in ("CLIP-I", "CLIP-T"):
                assert result[score] == pytest.approx(statistics.fmean(t[score] for t in own))
                means[f"{name} {result['candidate']}", score] = [
                    statistics.fmean(t[score] for t in own if t["subject"] == subject)
                    for subject in subjects
                ]
    labels = list(dict.fromkeys(label for label, _ in means))
    found = rows_of(page, "### Differences")
    assert len(labels) == 9 and len(found) == 36
    for second, first in combinations(labels, 2):
        assert found[f"{first} − {second}"] == [
            told([a - b for a, b in zip(means[first, score], means[second, score], strict=True)], 3)
            for score in ("CLIP-I", "CLIP-T")
        ]
    rows = rows_of(page)
    for (label, score), own in means.items():
        words = f"{statistics.fmean(own):.3f} ± {student_half_width(own):.3f}"
        assert rows[label][1 if score == "CLIP-I" else 2] == words
    assert "over 3 subject means of 2 training seeds each" in page


def test_the_results_page_has_the_tables_figures():
    text = (ASSETS / "results.md").read_text(encoding="utf-8")
    pages = "".join(
        (ASSETS / name / f"{name}.md").read_text(encoding="utf-8").replace("*", "")
        for name in ("table1", "table2", "sweep")
    )
    pages = pages.replace("<u>", "").replace("</u>", "")
    rows = rows_of(text, "## The paper's other tasks")
    own = [
        cell for name in ("LoRA of rank 16; CLIP-LoRA", "AdaLoRA", "NoRA") for cell in rows[name]
    ]
    figures = [figure for cell in own for figure in re.findall(r"[\d.]+ ± [\d.]+", cell)]
    assert len(figures) == 9
    for figure in figures:
        assert figure in pages


@pytest.mark.parametrize(
    ("chosen", "tried", "caveat"),
    [
        (0.01, (0.003, 0.01, 0.03), None),
        (0.003, (0.003, 0.01, 0.03), AT_EDGE),
        (0.03, (0.01, 0.003, 0.03), AT_EDGE),
        (0.01, (0.01, 0.003), AT_EDGE),
        (0.01, (0.01,), NOT_SEARCHED),
        (0.01, (), NOT_SEARCHED),
    ],
)
def test_a_rate_at_either_end_of_its_grid_has_the_caveat(chosen, tried, caveat):
    assert rate_caveat(chosen, tried) == caveat


def few_shot_cell(method: str, seed: int, accuracy: float, rate: float | None) -> dict:
    rates = {} if rate is None else {"learning_rate": {"vision": rate}}
    parameters = 0 if rate is None else 10
    return {"method": method, "shots": 4, "seed": seed, "accuracy": accuracy,
            "parameters": parameters, **rates}  # fmt: skip


def few_shot_record(rate: float, tried: tuple[float, ...], seeds: tuple[int, ...]) -> dict:
    rates = {"zero-shot": None, **dict.fromkeys(TRAINED, rate)}
    cells = [few_shot_cell(name, seed, 0.5 + 0.01 * n * seed, own)
             for n, (name, own) in enumerate(rates.items()) for seed in seeds]  # fmt: skip
    # As JSON has them.
    grids = {name: {str(one): 0.5 for one in tried} for name in TRAINED}
    return {"cells": cells, "rates": rates, "tried": grids, "seconds_per_step": {}}


def test_the_rule_is_the_same_for_every_method_of_table_2():
    for rate, is_edge in ((0.003, True), (0.01, False), (0.03, True)):
        page = table2.page(few_shot_record(rate, (0.01, 0.003, 0.03), (1, 2)))
        for name in TRAINED:
            assert f"{name} ({rate:g} of 0.003, 0.01, 0.03)" in page or not is_edge
            assert rows_of(page)[name][-1] == f"{rate:g}" + (" (edge)" if is_edge else "")
        assert ("edge" in page) == is_edge and "not searched" not in page
    alone = table2.page(few_shot_record(0.01, (), (1, 2)))
    assert all(f"{name} (0.01)" in alone for name in TRAINED) and "not searched" in alone


def test_a_single_seed_has_no_interval_in_either_table():
    page = table2.page(few_shot_record(0.01, (0.003, 0.01, 0.03), (1,)))
    assert not re.search(r"± \d", page) and "(one pair: no interval)" in page
    one = record_of("table1/table1.json")
    one["cells"] = [cell for cell in one["cells"] if cell["seed"] == 0]
    page = table1.page(one)
    assert not re.search(r"± \d", page) and page.count("(one pair: no interval)") == 15


def test_the_rule_is_the_same_for_every_row_of_table_1():
    record = record_of("table1/table1.json")
    labels = list(record["rates"])
    page = table1.page(record)
    assert "not searched" in page and all(f"{name} ({record['rates'][name]:g})" in page
                                          for name in labels)  # fmt: skip
    for rate, is_edge in ((0.1, True), (0.2, False), (0.3, True)):
        grids = {name: {0.1: 0.5, 0.2: 0.6, 0.3: 0.7} for name in labels}
        told = table1.page({**record, "rates": dict.fromkeys(labels, rate), "tried": grids})
        for name in labels:
            assert (f"{name} ({rate:g} of 0.1, 0.2, 0.3)" in told) == is_edge


def test_rows_that_lack_a_seed_are_paired_by_those_they_share():
    record = record_of("table1/table1.json")
    record["cells"] = [cell for cell in record["cells"]
                       if (cell["label"], cell["seed"]) != ("LoRA 4", 1)]  # fmt: skip
    page = table1.page(record)
    by = {(c["label"], c["seed"]): 100 * c["average"] for c in record["cells"]}
    deltas = [by["LoRA 16", s] - by["LoRA 4", s] for s in (0, 2)]
    assert rows_of(page, "### Differences")["LoRA 16 − LoRA 4"] == [told(deltas, 1)]
    assert "Means over 2 to 3 seeds" in page
    assert len(record["cells"][0]["accuracy"]) == len(SETS)


def trials(rates: list[float], subjects: tuple[str, ...], seeds: tuple[int, ...]) -> dict:
    found = [
        {"candidate": n, "subject": subject, "seed": seed, "parameters": 7,
         "CLIP-I": 0.9 - n / 10 + 0.01 * len(subject), "CLIP-T": 0.5 + seed / 100}
        for n in range(len(rates)) for subject in subjects for seed in seeds
    ]  # fmt: skip
    flags = [f"unet.learning-rate={rate}" for rate in rates]
    results = results_of(found, flags, [{"unet": rate} for rate in rates])
    return {"method": "nora", "results": results, "trials": found}


@pytest.mark.parametrize(("rates", "is_edge"), [
    ([1e-3, 2e-3, 3e-3], True), ([2e-3, 1e-3, 3e-3], False), ([3e-3, 1e-3, 2e-3], True),
])  # fmt: skip
def test_the_rule_is_the_same_for_a_sweeps_best_candidate(rates, is_edge):
    page = sweep_page({"nora": trials(rates, ("mug", "robot"), (0, 1))})
    assert (f"nora 0's unet ({rates[0]:g} of 0.001, 0.002, 0.003)" in page) == is_edge
    assert "not searched" not in page


def test_a_sweep_of_one_subject_says_what_its_intervals_cover():
    page = sweep_page({"nora": trials([1e-3], ("mug",), (0, 1, 2))})
    assert "over 3 training seeds. It covers prompts and seeds of one subject" in page
    page = sweep_page({"nora": trials([1e-3, 2e-3], ("mug",), (0,))})
    assert "there is no interval" in page and not re.search(r"± \d", page)
    apart = {"a": trials([1e-3], ("mug",), (0,)), "b": trials([1e-3], ("cat",), (0,))}
    with pytest.raises(StudioError, match="the same subjects and seeds"):
        sweep_page(apart)


def run_script(name: str, monkeypatch, *words: object) -> int:
    script = TOP / "evaluation" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("name", "files", "other"),
    [
        ("table1", ["table1/table1.json"], ["--seeds", "4"]),
        ("table2", ["table2/table2.json"], ["--jobs", "4"]),
        ("sweep", [f"sweep/{name}.json" for name in SWEEPS], ["--jobs", "4"]),
    ],
)
def test_each_script_shows_a_stored_record_and_refuses_other_options(
    name, files, other, tmp_path, monkeypatch, capsys
):
    words = ["--out", tmp_path / "out", "--stored", *(ASSETS / file for file in files)]
    assert run_script(name, monkeypatch, *words) == 0
    page = (ASSETS / name / f"{name}.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / f"{name}.md").read_text(encoding="utf-8") == page
    assert capsys.readouterr().out == page
    assert run_script(name, monkeypatch, *words, *other) == 2
    assert f"{other[0]}: it has no effect with --stored" in capsys.readouterr().err
    damaged = tmp_path / "damaged.json"
    for text in ("{", "{}", "[]"):
        damaged.write_text(text)
        assert run_script(name, monkeypatch, "--out", tmp_path, "--stored", damaged) == 2
        assert "--stored: " in capsys.readouterr().err


def test_a_sweep_refuses_a_run_of_other_settings(tmp_path):
    """A folder that candidate 0 once filled is not the figures of another candidate 0."""
    sweep = runpy.run_path(str(TOP / "evaluation" / "sweep.py"), run_name="sweep")
    sweep_run = sweep["SweepRun"](0, "sunrise-mug", 0)
    first, second = (
        sweep["SweepOptions"](candidates=(flags,), out=tmp_path)
        for flags in ("steps=2", "steps=2 unet.learning-rate=1e-2")
    )
    flags = sweep["arguments_of"](first, sweep_run)
    run = Run.create(sweep_run.folder(first), to_toml(with_recommended(parse_options(flags))))
    run.set_status("finished", 2, 2)
    sweep["train"](first, sweep_run)
    for other in (second, sweep["SweepOptions"](candidates=("steps=3",), out=tmp_path)):
        with pytest.raises(StudioError, match="or another --out"):
            sweep["train"](other, sweep_run)
    assert sweep["rates_of"](second, 0)["unet"] == 1e-2
