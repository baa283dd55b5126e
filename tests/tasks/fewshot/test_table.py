"""Table 2: its marks and intervals, cells kept and never mixed, and a small one trained in full."""

import json
import os
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.fewshot import coloured_folder, run_script
from support.tiny import tiny_clip

from nora_studio.errors import StudioError
from nora_studio.runs.script_pool import ScriptPool
from nora_studio.scoring.tables import check_settings
from nora_studio.tasks.fewshot.cells import CellRunner, evenly
from nora_studio.tasks.fewshot.table import Cell, as_markdown, check_alike, read_cell


def cell(method: str, shots: int, accuracy: float, parameters: int = 10) -> dict:
    return {
        "method": method,
        "shots": shots,
        "accuracy": accuracy,
        "parameters": parameters,
        "learning_rate": {"vision": 0.01},
    }


def test_the_best_is_bold_the_second_underlined_and_equals_alike():
    cells = [
        cell("nora", 4, 0.801), cell("nora", 4, 0.799), cell("vera", 4, 0.9),
        cell("lora+", 4, 0.8), cell("zero-shot", 4, 0.3, 0), cell("nora", 8, 0.95),
    ]  # fmt: skip
    lines = as_markdown(
        cells, ["zero-shot", "lora+", "vera", "nora"], [4, 8], {"nora": 0.0123}
    ).splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines[2:]}
    assert "4 shots" in lines[0] and "8 shots" in lines[0]
    assert "**90.0**" in rows["vera"] and "<u>80.0</u>" in rows["lora+"]
    assert "<u>80.0</u> ± " in rows["nora"] and "**95.0**" in rows["nora"]
    assert "12.3" in rows["nora"] and "| 30.0 |" in rows["zero-shot"]


def test_cells_of_other_settings_are_refused_by_name(tmp_path):
    file = tmp_path / "cell.json"
    check_settings(file, {"steps": 3}, {"steps": 3})
    with pytest.raises(StudioError, match=r"steps: expected 3, with which .*; got 4"):
        check_settings(file, {"steps": 3}, {"steps": 4})
    with pytest.raises(StudioError, match="differ in device: CPU, H200"):
        check_alike([{"device": "CPU"}, {"device": "H200"}])


def test_half_a_cell_is_none(tmp_path):
    file = tmp_path / "cell.json"
    assert read_cell(file) is None
    file.write_text('{"accuracy": 0.')
    assert read_cell(file) is None
    file.write_text('{"accuracy": 0.5}')
    assert read_cell(file) == {"accuracy": 0.5}


@pytest.mark.parametrize("jobs", [1, 2, 5, 24, 500])
def test_cells_are_shared_out_evenly_and_none_twice(jobs):
    groups = [
        [Cell(method, shots, seed) for method in ("nora", "vera", "lora+", "dylora", "adalora")]
        for shots in (1, 2, 4, 8, 16) for seed in (1, 2, 3)
    ]  # fmt: skip
    work = evenly(groups, jobs)
    every = [cell for group in groups for cell in group]
    assert sorted(map(str, (cell for piece in work for cell in piece))) == sorted(map(str, every))
    assert all(len({(cell.shots, cell.seed) for cell in piece}) == 1 for piece in work)
    loads = [sum(cell.shots for cell in piece) for piece in work]
    assert loads == sorted(loads, reverse=True)
    # A piece is over its share by less than one cell: that cannot be cut.
    share = sum(cell.shots for cell in every) / jobs
    assert all(load < share + piece[0].shots for load, piece in zip(loads, work, strict=True))
    if jobs == 1:
        assert len(work) == len(groups)


def test_what_was_stopped_is_shared_out_as_it_was(tmp_path):
    cells = [Cell(method, shots, 1) for shots in (1, 4) for method in ("nora", "vera", "dylora")]
    rates: dict[str, float | None] = dict.fromkeys(("nora", "vera", "dylora"), 0.01)
    runner = CellRunner(tmp_path, (), {"steps": 3}, jobs=3)
    whole = runner.missing(cells, rates)
    assert sorted(len(group) for group in whole) == [1, 1, 1, 3]
    for cell in whole[0]:
        values = {"accuracy": 0.5, "settings": {"steps": 3, "rate": 0.01}}
        (tmp_path / f"{cell.name}.json").write_text(json.dumps(values))
    assert runner.missing(cells, rates) == whole[1:]


def test_a_stop_reaches_every_process_and_begins_none(tmp_path):
    scripts = ScriptPool()
    command = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]

    def work(_):
        with (tmp_path / "log").open("a") as output:
            return scripts.call(command, output, dict(os.environ))

    timer = threading.Timer(0.5, scripts.stop, [signal.SIGTERM])
    timer.start()
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work, n) for n in range(4)]
    for future in futures:
        with pytest.raises(StudioError, match="Continue with the same command"):
            future.result()
    assert time.monotonic() - began < 20 and not scripts.children
    with (tmp_path / "log").open("a") as output:
        failing = [sys.executable, "-S", "-c", "raise SystemExit(3)"]
        assert ScriptPool().call(failing, output, {}) == 3


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_table_is_trained_once_and_goes_on(tmp_path):
    base, pictures = tiny_clip(tmp_path / "clip"), coloured_folder(tmp_path / "colours")
    arguments = [
        "--out", str(tmp_path / "table"), "--methods", "zero-shot", "nora", "lora+",
        "--shots", "1", "2", "--seeds", "1", "2", "--rate-shots", "1", "--rate-seeds", "7", "8",
        "--jobs", "2", "--no-pace",
        "--options", f"model={base}", f"dataset={pictures}", "steps=3", "batch-size=3",
        "vision.outer-rank=8", "text.outer-rank=8", "vision.rank=2", "text.rank=2",
    ]  # fmt: skip
    outcome = run_script("evaluation/table2.py", *arguments)
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / "table" / "table2.json").read_text())
    assert len(record["cells"]) == 3 * 2 * 2
    rates = [json.loads(file.read_text()) for file in tmp_path.glob("table/rates-*/*.json")]
    own = [one["validation"] for one in rates if one["settings"]["rate"] == 5e-5]
    assert record["tried"]["nora"]["5e-05"] == statistics.fmean(own) and len(own) == 2
    assert set(record["tried"]["nora"]) == {"5e-05", "0.0001", "2e-05"} and record["rates"]["nora"]
    assert "| zero-shot | 0 |" in (tmp_path / "table" / "table2.md").read_text()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "table").rglob("*.json")}
    assert run_script("evaluation/table2.py", *arguments).status == 0
    cells = tmp_path / "table" / "cells"
    assert all(file.stat().st_mtime_ns == kept[file] for file in cells.glob("*.json"))
    other = run_script("evaluation/table2.py", *arguments, "dropout=0.5")
    assert other.status == 2 and "dropout" in other.errors[0]
    mine = run_script("evaluation/table2.py", *arguments, "seed=4")
    assert mine.status == 2 and "--options: the table sets seed itself" in mine.errors[0]


@pytest.mark.slow
def test_a_table_refuses_what_no_run_could_begin_with(tmp_path):
    outcome = run_script("evaluation/table2.py", "--out", str(tmp_path), "--seeds", "1", "1")
    assert outcome.status == 2 and "--seeds" in outcome.errors[0]
