"""The commonsense trainer as a person starts it: twins, resume to the byte, best step, refusals."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.language import some_rows, tiny_llama
from support.questions import STEPS, run_script, words
from transformers import AutoModelForCausalLM

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.methods.table import METHODS
from nora_studio.errors import StudioError
from nora_studio.options.options_file import parse, to_toml
from nora_studio.runs.runs import Run
from nora_studio.tasks.commonsense.defaults import with_recommended
from nora_studio.tasks.commonsense.models import load_decoder
from nora_studio.tasks.commonsense.options import CommonsenseOptions
from nora_studio.tasks.commonsense.recommended import recommended


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A file of 40 questions."""
    file = tmp_path_factory.mktemp("data") / "rows.json"
    file.write_text(json.dumps(some_rows(40)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def twins(model, data, tmp_path_factory) -> Path:
    """Folder of the finished runs q-nora and q-lora."""
    out = tmp_path_factory.mktemp("twins")
    more = ("--method", "nora,lora", "--override", "nora.decoder.outer-rank=16")
    status, _, err = run_script(*words(model, data, out, *more))
    assert status == 0, err
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of adapter and newest checkpoint, and the log less what the machine took."""
    run = Run(folder)
    last = run.checkpoints()[STEPS]
    found = {
        str(file.relative_to(folder)): file.read_bytes()
        for top in (run.adapter, last)
        for file in top.rglob("*")
        if file.is_file()
    }
    taken = ("seconds_per_step", "examples_per_second", "memory_gib")
    rows = [{k: v for k, v in row.items() if k not in taken} for row in run.read_log()]
    return found | {"log": json.dumps(rows).encode()}


def test_twins_end_with_proven_adapters_that_belong_to_their_base(twins, model):
    for method in ("nora", "lora"):
        run = Run(twins / f"q-{method}")
        status = run.read_status()
        assert status["state"] == "finished" and status["change"] > 0
        card = open_adapter(run.folder).card
        assert (card.method, card.task, card.model) == (method, "commonsense", str(model))
        decoder = load_decoder(str(model), torch.float32, torch.device("cpu"))
        load_adapter(run.folder, {"decoder": decoder})
        other = load_decoder(str(model), torch.float32, torch.device("cpu"))
        for parameter in other.parameters():
            parameter.copy_(torch.randn_like(parameter))
        with pytest.raises(StudioError, match="another base"):
            load_adapter(run.folder, {"decoder": other})


@pytest.mark.parametrize("method", ["nora", "lora"])
def test_peft_reads_the_adapter_as_it_lies_there(twins, model, method):
    run = Run(twins / f"q-{method}")
    ids = torch.arange(1, 30)[None]
    ours = load_decoder(str(model), torch.float32, torch.device("cpu"))
    bare = ours(ids).logits
    load_adapter(run.folder, {"decoder": ours})
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(run.adapter / "decoder")).eval()
    with torch.no_grad():
        assert torch.equal(theirs(ids).logits, ours(ids).logits)
    assert not torch.equal(ours(ids).logits, bare)


@pytest.mark.parametrize(
    "words",
    [
        ("export", "RUN", "--to", "kohya"),
        ("merge", "--adapters", "RUN", "--out", "out"),
        ("mix", "--adapters", "RUN", "RUN", "--out", "out.safetensors"),
        ("push", "RUN", "me/mine", "--dry-run"),
        ("compare", "--adapters", "RUN", "--prompts", "a mug"),
        pytest.param(
            ("score", "--adapters", "RUN", "--references", "RUN", "--prompts", "a mug"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: words[0],
)
def test_what_is_for_sdxl_alone_says_what_the_adapter_was_trained_for(
    command, twins, tmp_path, monkeypatch, words
):
    monkeypatch.chdir(tmp_path)
    run = str(twins / "q-nora")
    status, _, err = command(*[run if word == "RUN" else word for word in words])
    assert status == 2 and len(err.strip().splitlines()) == 1
    assert "expected an adapter of SDXL" in err and "trained for commonsense" in err
    assert not list(tmp_path.iterdir())


def test_inspect_tells_the_task_and_no_pixels(command, twins):
    status, out, err = command("inspect", str(twins / "q-nora"))
    assert status == 0, err
    told = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
    assert (told["task"], told["trained"]) == ("commonsense", f"{STEPS} steps, seed 0")
    assert "only for adapters of SDXL" in out


def test_twins_see_the_same_batches_and_begin_at_the_same_base(twins):
    logs = [Run(twins / f"q-{method}").read_log() for method in ("nora", "lora")]
    assert logs[0][0]["held_out_loss"] == logs[1][0]["held_out_loss"]
    assert [row["step"] for row in logs[0]] == [0, 2, 3, 4, 6]
    assert all("examples_per_second" in row for row in logs[0][1:])
    assert logs[0][-1]["held_out_loss"] < logs[0][0]["held_out_loss"]


def test_a_stopped_run_goes_on_to_the_same_bytes(twins, model, data, tmp_path):
    more = ("--method", "nora,lora", "--override", "nora.decoder.outer-rank=16")
    plain = words(model, data, tmp_path, *more)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_after_two_steps, args=[tmp_path], daemon=True).start()
    status, _, err = run_script(*plain)
    signal.signal(signal.SIGTERM, handler)
    assert status == 128 + signal.SIGTERM, err
    done = Run(tmp_path / "q-nora").read_status()
    assert done["state"] == "stopped" and 0 < done["step"] < STEPS
    assert run_script(*plain)[0] == 2, "a run is not begun twice"
    status, out, err = run_script(*plain, "--resume")
    assert status == 0 and "Continuing after step" in out, err
    for method in ("nora", "lora"):
        found = bytes_of(tmp_path / f"q-{method}")
        wanted = bytes_of(twins / f"q-{method}")
        assert found.keys() == wanted.keys()
        assert [name for name in found if found[name] != wanted[name]] == []


def stop_after_two_steps(folder: Path) -> None:
    """Send this process a SIGTERM as soon as the runs have passed their second step."""
    run = Run(folder / "q-lora")
    while run.read_status().get("step", 0) < 2:
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)


def test_accumulated_pieces_train_the_same(twins, model, data, tmp_path):
    plain = words(model, data, tmp_path, "--method", "lora", "--accumulate", "2")
    assert run_script(*plain)[0] == 0
    rows = [Run(folder / "q-lora").read_log() for folder in (tmp_path, twins)]
    for one, other in zip(*rows, strict=True):
        for name in ("loss", "held_out_loss"):
            if name in one:
                assert one[name] == pytest.approx(other[name], rel=1e-4)


def test_the_best_step_becomes_the_adapter(model, data, tmp_path):
    """A rate so high that the loss rises again: the adapter is the first measured step's."""
    plain = words(model, data, tmp_path, "--method", "lora", "--schedule", "constant")
    changes = {"--steps": "4", "--evaluate-every": "2", "--warmup-steps": "0"}
    for flag, value in (changes | {"--decoder.learning-rate": "0.3"}).items():
        plain[plain.index(flag) + 1] = value
    status, out, err = run_script(*plain, "--keep-checkpoints", "1")
    assert status == 0, err
    run = Run(tmp_path / "q-lora")
    losses = {r["step"]: r["held_out_loss"] for r in run.read_log() if r.get("held_out_loss")}
    assert losses[2] < losses[4], "the test could not tell"
    assert run.read_status()["adapter_step"] == 2 and "as of step 2, the best" in out
    weights = [
        load_file(top / "decoder" / "adapter_model.safetensors")
        for top in (run.adapter, run.checkpoints()[2])
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("flag", ["--packing", "--group-by-length"])
def test_batches_may_be_made_otherwise(model, data, tmp_path, flag):
    plain = words(model, data, tmp_path, "--method", "lora", flag, "--steps", "2")
    status, _, err = run_script(*plain)
    assert status == 0, err
    assert Run(tmp_path / "q-lora").read_log()[-1]["loss"] > 0


def test_epochs_decide_the_steps_where_none_are_given(model, data, tmp_path):
    plain = words(model, data, tmp_path, "--method", "lora")
    at = plain.index("--steps")
    plain[at : at + 2] = ["--epochs", "0.5"]
    assert run_script(*plain)[0] == 0
    assert Run(tmp_path / "q-lora").planned_steps == 4  # Half of 32 questions, 4 at a time.


def test_recommended_values_are_the_protocols_but_on_the_embedded_model():
    large = with_recommended(CommonsenseOptions(model="some/llama"))
    assert (large.epochs, large.batch_size, large.cutoff, large.validation) == (3.0, 16, 256, 120)
    assert large.train_on_inputs and large.schedule == "linear" and large.warmup_steps == 100
    assert (large.final, large.keep_best) == ("best", True)
    assert recommended("nora", "some/llama").rate == recommended("lora", "some/llama").rate == 3e-4
    small = with_recommended(CommonsenseOptions())
    assert small.epochs == 1.0 and not small.train_on_inputs
    for method in METHODS:
        assert recommended(method, "embedded").rank >= 1
        assert recommended(method, "some/llama").rate > 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "nowhere"), "--model: expected 'embedded', a directory or a Hub name"),
        (("--data", "nowhere"), "--data: expected 'embedded', a folder of sets"),
        (("--method", "lorra"), "method must be one of"),
        (("--method", "lora", "--decoder.outer-rank", "8"), "not an option of --method lora"),
        (("--epochs", "2"), "--epochs: --steps already sets the length"),
        (("--packing", "--group-by-length"), "--group-by-length has no effect with --packing"),
        (("--evaluate-every", "0", "--final", "best"), "--final best needs measurements"),
        (("--validation", "40"), "--validation: expected to hold out fewer than the 40 questions"),
        (("--targets", "q_prj"), "nothing there ends with q_prj"),
        (("--batch-size", "5", "--accumulate", "2"), "--batch-size: expected a multiple of 2"),
    ],
)
def test_bad_input_is_one_line_and_status_two(model, data, tmp_path, more, said):
    status, _, err = run_script(*words(model, data, tmp_path, *more))
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(lines) == 1 and said in lines[0], err


def test_options_come_back_from_their_file(tmp_path):
    options = CommonsenseOptions(method="nora,dora", packing=True, targets=("q_proj",))
    file = tmp_path / "options.toml"
    file.write_text(to_toml(options), encoding="utf-8")
    assert parse(CommonsenseOptions, ["--config", str(file)]) == options
    assert parse(CommonsenseOptions, ["--config", str(file), "--no-packing"]).packing is False


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["8", "4"])
def test_a_quantised_base_is_trained_and_proven(model, data, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    more = ("--method", "nora,lora", "--override", "nora.decoder.outer-rank=16")
    status, out, err = run_script(*words(model, data, tmp_path, *more, "--base-bits", bits))
    assert status == 0 and out.count("verified") == 2, err


def test_gradient_checkpointing_changes_no_loss(twins, model, data, tmp_path):
    plain = words(model, data, tmp_path, "--method", "lora", "--gradient-checkpointing")
    assert run_script(*plain)[0] == 0
    losses = [
        [row["loss"] for row in Run(folder / "q-lora").read_log()[1:]]
        for folder in (tmp_path, twins)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
