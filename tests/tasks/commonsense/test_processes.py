"""The commonsense trainer in two processes: every batch shared, the base whole or in shards."""

import json
from pathlib import Path

import pytest
from support.language import some_rows, tiny_llama
from support.places import TOP
from support.several import together
from support.trainer import run_trainer

from nora_studio.runs.runs import Run

pytestmark = pytest.mark.slow

SCRIPT = TOP / "training" / "llama_commonsense.py"
SHARDS = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.json"
    file.write_text(json.dumps(some_rows(40)), encoding="utf-8")
    return file


def words(model: Path, data: Path, out: Path, method: str) -> list[str]:
    sizes = ["--decoder.rank", "2", "--decoder.learning-rate", "0.01"]
    sizes += ["--decoder.outer-rank", "16"] if method == "nora" else []
    return [
        "--model", str(model), "--data", str(data), "--output-dir", str(out), "--name", "q",
        "--steps", "4", "--batch-size", "4", "--validation", "6", "--evaluate-every", "2",
        "--log-every", "1", "--warmup-steps", "1", "--no-cache", "--method", method, *sizes,
    ]  # fmt: skip


def losses(folder: Path, method: str) -> list[float]:
    """Of the steps, then those measured."""
    rows = Run(folder / f"q-{method}").read_log()
    names = ("loss", "held_out_loss")
    return [row[name] for name in names for row in rows if name in row]


@pytest.mark.parametrize("variables", [{}, SHARDS], ids=["whole", "in shards"])
@pytest.mark.parametrize("method", ["nora", "lora"])
def test_two_processes_train_as_one(model, data, tmp_path, method, variables):
    """Rows differ in length, so that a mean of the processes' own means would be another."""
    alone = run_trainer(*words(model, data, tmp_path / "one", method), script=SCRIPT)
    assert alone.status == 0, alone.err
    pair = words(model, data, tmp_path / "two", method)
    said = together(tmp_path / "said", pair, script=SCRIPT, **variables)
    assert [outcome.status for outcome in said] == [0, 0], said
    expected = losses(tmp_path / "one", method)
    assert losses(tmp_path / "two", method) == pytest.approx(expected, rel=2e-4)
    assert Run(tmp_path / "two" / f"q-{method}").read_status()["state"] == "finished"
