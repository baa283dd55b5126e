"""Table 1: its shape, its arithmetic, and a step measured with each adapter."""

import json
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import torch
from support.language import load, tiny_llama
from support.places import TOP

from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.table import METHODS
from nora_studio.runs.runs import Run
from nora_studio.sdxl.shapes import BUILT_IN
from nora_studio.tasks.commonsense import costs
from nora_studio.tasks.commonsense.cost_tables import PAPER_RATIOS, table
from nora_studio.tasks.commonsense.costs import Variant, extra_flops, measure
from nora_studio.tasks.commonsense.rows import SETS
from nora_studio.tasks.commonsense.table import ENTRIES, SHORT, cell_of, markdown

SCRIPT = TOP / "evaluation" / "table1.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    model, _ = load(tiny_llama(tmp_path_factory.mktemp("llama")))
    return model.requires_grad_(False)


def test_the_rows_name_methods_and_shapes_that_there_are():
    assert {entry.method for entry in ENTRIES} <= METHODS.keys()
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert costs.VARIANTS.keys() == PAPER_RATIOS.keys() <= BUILT_IN.keys()
    assert list(SHORT) == list(SETS)
    for variants in costs.VARIANTS.values():
        assert sum(variant.is_reference for variant in variants) == 1


@pytest.mark.parametrize(
    "method",
    ["nora", None, *(pytest.param(m, marks=pytest.mark.slow) for m in ("lora", "lokr", "adalora"))],
)
def test_a_step_is_measured_and_the_base_left_as_it_was(base, method):
    before = [weight.clone() for weight in base.parameters()]
    outer = 32 if method == "nora" else None
    total = 10 if method == "adalora" else None
    spec = AdapterSpec(method, 2, outer_rank=outer, total_steps=total) if method else None
    found = measure(base, Variant("one", spec), rows=2, tokens=16, steps=2, profiled=True)
    assert len(found["seconds"]) == 2 and found["seconds_per_step"] > 0
    assert found["tokens_per_second"] > 0 and any("mm" in line for line in found["profile"])
    assert bool(found["parameters"]) == (method is not None)
    for weight, old in zip(base.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert not any("lora" in name or "nora" in name for name, _ in base.named_modules())


def test_random_outer_pairs_are_orthonormal():
    up, singular, down = costs.random_outer_factors(torch.zeros(12, 20), 5, "svd")
    assert torch.allclose(up.T @ up, torch.eye(5), atol=1e-5)
    assert torch.allclose(down @ down.T, torch.eye(5), atol=1e-5)
    assert up.shape == (12, 5) and down.shape == (5, 20) and singular.shape == (5,)


def test_extra_products_are_counted_as_the_formulas_have_them(base):
    """A model of one kind of layer, counted by hand."""
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(100, 60, bias=False)})
    tokens, rank, outer = 1000, 2, 40
    whole = 4 * 100 * 60 * tokens
    lora = extra_flops(model, Variant("lora", AdapterSpec("lora", rank)), tokens)
    assert lora == pytest.approx(6 * rank * 160 * tokens / whole, abs=1e-4)
    nora = extra_flops(model, Variant("n", AdapterSpec("nora", rank, outer_rank=outer)), tokens)
    forward = 2 * outer * 100 + 2 * 2 * rank * (outer + 60)
    backward = 2 * 2 * rank * (60 + outer + 100) + 2 * rank * 60
    once = 2 * 60 * outer * 2 * rank + 2 * outer * 60 * rank + 2 * 2 * rank * outer * 100
    assert nora == pytest.approx(((forward + backward) * tokens + once) / whole, abs=1e-4)
    assert extra_flops(model, Variant("k", AdapterSpec("lokr", 2)), tokens) is None
    assert extra_flops(model, Variant("base", None), tokens) == 0.0


def test_costs_are_told_as_ratios_to_lora():
    cell = {
        "parameters": 10,
        "seconds_per_step": 2.0,
        "tokens_per_second": 5,
        "peak_gib": 40.0,
        "extra_flops": 0.1,
    }
    variants = costs.VARIANTS["llama-1-7b"][:3]
    slower = {**cell, "seconds_per_step": 1.5, "peak_gib": 30.0, "extra_flops": None}
    cells = (cell, slower, {"failed": "out of memory"})
    page = table("llama-1-7b", [*zip(variants, cells, strict=True)])
    assert "| 1.000 | 1.000 | 10.0% |" in page and "| 0.750 | 0.750 |  |" in page
    assert "out of memory" in page and "time 0.88, memory 0.9." in page


TRAINED = {"parameters": 163840, "seconds_per_step": 0.1, "memory_gib": 1.0}


def cell(label: str, value: float, **more) -> dict:
    found = {"accuracy": dict.fromkeys(SETS, value), "average": value}
    return {"label": label, **found, "chance": dict.fromkeys(SETS, 0.25), "average_chance": 0.25,
            **more}  # fmt: skip


def test_seeds_are_told_as_their_mean_with_students_interval():
    cells = [cell("NoRA", value, **TRAINED) for value in (0.70, 0.72, 0.77)]
    page = markdown([cell("base", 0.0), *cells, cell("LoRA", 0.73, **TRAINED)])
    rows = [line for line in page.splitlines() if "NoRA" in line or "LoRA" in line]
    assert len(rows) == 2
    # 4.302653 * the deviation of 3.6056 / sqrt(3)
    assert "| **73.0** ± 9.0 |" in rows[0] and rows[0].count("**73.0**") == 9
    # What reads alike is marked alike.
    assert rows[1].count("**73.0**") == 9 and "±" not in rows[1]


def test_the_best_of_each_set_is_bold_and_the_base_never():
    cells = [cell("base", 0.9), cell("NoRA", 0.8, **TRAINED), cell("LoRA", 0.7, **TRAINED)]
    rows = markdown(cells).splitlines()
    assert rows[0].count("|") == rows[2].count("|") == len(SETS) + 6
    assert "**" not in rows[3] and rows[4].count("**80.0**") == 9 and "**" not in rows[5]
    assert "0.16M" in rows[4] and "25.0" in rows[2]


def test_a_cell_is_what_run_and_answers_say(tmp_path):
    run = Run.create(tmp_path / "run", "steps = 4\n")
    for step, pace in ((2, 0.2), (3, 0.1), (4, 0.4)):
        run.log(step, loss=1.0, seconds_per_step=pace, memory_gib=step / 2)
    run.adapter.mkdir()
    (run.adapter / "card.json").write_text('{"parameters": 7}')
    answers = tmp_path / "answers"
    answers.mkdir()
    found = {"accuracy": {"boolq": 1.0}, "chance": {"boolq": 0.5}}
    (answers / "results.json").write_text(
        json.dumps({**found, "average": 1.0, "average_chance": 0.5, "asked": 3})
    )
    told = cell_of(run, answers)
    assert (told["parameters"], told["steps"]) == (7, 4)
    assert (told["seconds_per_step"], told["memory_gib"]) == (0.2, 2.0)
    assert "parameters" not in cell_of(None, answers)


@pytest.mark.slow
def test_a_table_is_made_of_real_runs_and_goes_on_after_a_stop(tmp_path):
    """Stopped while it trains: the training saves, and the same command finishes the table."""
    model = tiny_llama(tmp_path / "llama")
    words = ["--out", str(tmp_path / "out"), "--model", str(model), "--labels", "LoRA 4"]
    words += ["--limit", "1", "--batch-size", "8", "--seeds", "3"]
    words += ["--options", "validation=8", "batch-size=4", "checkpoint-every=1000"]
    table = subprocess.Popen([sys.executable, str(SCRIPT), *words, "--steps", "400"])
    run = Run(tmp_path / "out" / "runs" / "lora-4-seed3-lora")
    while run.read_status().get("step", 0) < 10:
        assert table.poll() is None
        time.sleep(0.05)
    table.send_signal(signal.SIGTERM)
    assert table.wait(60) == 128 + signal.SIGTERM
    stopped = run.read_status()
    assert stopped["state"] == "stopped" and list(run.checkpoints()) == [stopped["step"]]
    assert subprocess.call([sys.executable, str(SCRIPT), *words, "--steps", "400"]) == 0
    assert run.read_log()[-1]["step"] == 400
    page = (tmp_path / "out" / "table1.md").read_text(encoding="utf-8")
    assert "| LoRA 4 | 0.01M |" in page and "| base |" in page
    found = json.loads((tmp_path / "out" / "lora-4-seed3.json").read_text(encoding="utf-8"))
    assert len(found["accuracy"]) == 8 and found["steps"] == 400 and found["seed"] == 3
    config = tomllib.loads((run.folder / "config.toml").read_text(encoding="utf-8"))
    told = (config["seed"], config["validation"], config["batch_size"], config["checkpoint_every"])
    assert told == (3, 8, 4, 1000)
    for more, word in ((["--limit", "2"], "limit: expected 1, with which"),
                       (["--seeds", "1", "1"], "--seeds"),
                       (["--options", "name=one"], "the table sets name itself")):  # fmt: skip
        refused = subprocess.run([sys.executable, str(SCRIPT), *words, "--steps", "400", *more],
                                 capture_output=True, text=True)  # fmt: skip
        assert refused.returncode == 2 and word in refused.stderr
