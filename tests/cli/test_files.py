"""The commands on adapter files, with real adapters and runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.tiny import RARE_TOKEN, SIZE, tiny_adapter, tiny_sdxl

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.updates import error_of, read_updates
from nora_studio.sdxl.generate import adapter_on, generate_images
from nora_studio.sdxl.models import load_sdxl, parts_of


@pytest.fixture(scope="module")
def adapters(tiny_base, tmp_path_factory) -> dict[str, Path]:
    """One adapter each of a NoRA, a LoRA and an OFT, named as runs. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        method: tiny_adapter(
            folder / f"mug-{method}" / "adapter", load_sdxl(str(tiny_base)), method
        )
        for method in ("nora", "lora", "oft")
    }


def picture(pipe, adapter: Path | None = None) -> np.ndarray:
    with adapter_on(pipe, adapter):
        drawn = generate_images(
            pipe, ["a [V] mug"], [0], steps=2, guidance=5, size=SIZE, trigger=RARE_TOKEN
        )
        return np.asarray(next(iter(drawn))[2], dtype=np.int64)


@pytest.mark.parametrize("name", ["export", "merge", "mix", "inspect", "extract", "push"])
def test_each_command_has_its_own_help(command, name):
    status, out, _ = command(name, "--help")
    assert status == 0
    assert f"nora-studio {name}" in out


@pytest.mark.parametrize("to", ["kohya", "diffusers", "seed"])
def test_export_writes_a_file_that_generates_the_same_image(
    command, adapters, tiny_base, tmp_path, to
):
    out = tmp_path / "new" / "a.safetensors"
    words = ("export", adapters["nora"], "--to", to, "--out", out, "--model", tiny_base)
    status, told, err = command(*words, "--precision", "fp32")
    assert status == 0, err
    assert str(out) in told and "error" in told
    wanted = picture(load_sdxl(str(tiny_base)), adapters["nora"])
    assert np.abs(picture(load_sdxl(str(tiny_base)), out) - wanted).max() <= 1
    content = out.read_bytes()
    command(*words, "--precision", "fp32")
    assert out.read_bytes() == content  # twice the same bytes


def test_export_prints_the_error_of_a_lower_rank(command, adapters, tiny_base, tmp_path):
    out = tmp_path / "a.safetensors"
    words = ("export", adapters["oft"], "--out", out, "--model", tiny_base)
    status, _, err = command(*words)
    assert status == 2
    assert err.splitlines()[-1].startswith("error: ") and "--rank" in err
    status, told, _ = command(*words, "--rank", "5", "--precision", "fp32")
    assert status == 0
    line = next(line for line in told.splitlines() if "reducing the rank" in line)
    pipe = load_sdxl(str(tiny_base))
    load_adapter(adapters["oft"], parts_of(pipe))
    whole = read_updates(parts_of(pipe), rank=64)
    again = load_sdxl(str(tiny_base))
    load_adapter(out, parts_of(again))
    error = error_of(read_updates(parts_of(again)), whole)
    assert float(line.split(": ")[1].split(" of ")[0]) == pytest.approx(error.overall, rel=0.05)


def test_export_works_from_a_run_of_the_trainer(command, twins, tiny_base, tmp_path):
    out = tmp_path / "a.safetensors"
    status, _, err = command("export", twins[0] / "mug-nora", "--out", out)
    assert status == 0, err
    assert open_adapter(out).card.steps == open_adapter(twins[0] / "mug-nora").card.steps
    wanted = picture(load_sdxl(str(tiny_base)), twins[0] / "mug-nora")
    assert np.abs(picture(load_sdxl(str(tiny_base)), out) - wanted).max() <= 1


def test_compare_takes_files_as_well_as_folders(command, adapters, tiny_base, tmp_path):
    out = tmp_path / "mine.safetensors"
    command("export", adapters["nora"], "--out", out, "--model", tiny_base)
    words = ("--prompts", "a [V] mug", "--steps", "2", "--size", SIZE, "--out", tmp_path / "c")
    both = ("--adapters", out, adapters["nora"], "--model", tiny_base)
    status, _, err = command("compare", *both, *words)
    assert status == 0, err
    assert (tmp_path / "c" / "mine").is_dir()
    assert (tmp_path / "c" / "grid.png").is_file()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_merge_writes_a_pipeline_that_needs_no_adapter(
    command, adapters, tiny_base, tmp_path, precision
):
    out = tmp_path / "merged"
    words = ("merge", "--adapters", adapters["nora"], "--model", tiny_base, "--out", out)
    status, _, err = command(*words, "--precision", precision)
    assert status == 0, err
    merged = load_sdxl(str(out))
    wanted = picture(load_sdxl(str(tiny_base)), adapters["nora"])
    assert np.abs(picture(merged) - wanted).mean() < {"fp32": 0.1, "fp16": 1}[precision]
    assert {file.suffix for file in out.rglob("*model*") if file.is_file()} == {
        ".safetensors",
        ".json",
    }
    status, _, err = command(*words)
    assert status == 2 and "expected a new or empty folder" in err
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_merging_and_mixing_with_weights_agree(command, adapters, tiny_base, tmp_path):
    pair = ("--adapters", adapters["nora"], adapters["lora"], "--model", tiny_base)
    weights = ("--weights", "0.7", "0.4", "--precision", "fp32")
    mixed, merged = tmp_path / "mix.safetensors", tmp_path / "merged"
    assert command("mix", *pair, *weights, "--out", mixed)[0] == 0
    assert command("merge", *pair, *weights, "--out", merged)[0] == 0
    one = picture(load_sdxl(str(tiny_base)), mixed)
    other = picture(load_sdxl(str(merged)))
    assert np.abs(one - other).max() <= 1
    rank = next(t.shape[0] for k, t in load_file(mixed).items() if "lora_down" in k)
    assert rank == 2 * 2 + 2  # the NoRA's twice its inner rank, and the LoRA's own
    assert np.abs(one - picture(load_sdxl(str(tiny_base)), adapters["nora"])).mean() > 1


def test_mix_refuses_adapters_of_different_bases(command, adapters, tmp_path):
    other = tiny_sdxl(tmp_path / "other", seed=1)
    stranger = tiny_adapter(tmp_path / "stranger", load_sdxl(str(other)), "lora")
    both = ("--adapters", adapters["nora"], stranger, "--model", other)
    status, _, err = command("mix", *both, "--out", tmp_path / "m.safetensors")
    assert status == 2
    assert "another base" in err
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.parametrize("to", ["kohya", "seed"])
def test_inspect_prints_method_ranks_and_energy(command, adapters, tiny_base, tmp_path, to):
    file = tmp_path / "a.safetensors"
    command("export", adapters["nora"], "--to", to, "--out", file, "--model", tiny_base)
    plot = tmp_path / "plots" / "energy.png"
    status, out, err = command("inspect", file, "--plot", plot)
    assert status == 0, err
    for word in ("nora", RARE_TOKEN, "2,304", "mid", "72"):
        assert word in out
    told = facts_in(out)
    assert told["scale"] == "1"
    assert told.get("outer rank") == ("8" if to == "seed" else None)
    shares = [float(w[:-1]) for line in out.splitlines() for w in line.split() if w.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    with Image.open(plot) as image:
        colours = image.convert("RGB").getcolors(1 << 16)
        assert colours is not None and len(colours) > 3


def test_inspect_reads_a_run_folder_on_its_base(command, twins):
    status, out, _ = command("inspect", twins[0] / "mug-nora")
    assert status == 0
    assert "energy" in out and "up 0.0" in out
    told = facts_in(out)
    assert (told["rank"], told["outer rank"], told["scale"]) == ("2", "8", "1")


def facts_in(out: str) -> dict[str, str]:
    """The lines of "name  value" that `inspect` begins with."""
    return dict(re.findall(r"^(\w[\w ]*?)  +(\S.*)$", out, flags=re.M))


def test_inspect_identifies_files_of_other_tools(command, tmp_path):
    from safetensors.torch import save_file

    file = tmp_path / "theirs.safetensors"
    stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.hada_w1_a": torch.zeros(2, 2), f"{stem}.hada_w1_b": torch.zeros(2, 2048)}
    save_file(tensors, file, metadata={"ss_base_model_version": "sdxl_base_v1-0"})
    status, out, _ = command("inspect", file)
    assert status == 0
    assert "LoHa of LyCORIS" in out and "SDXL" in out and "sdxl_base_v1-0" in out


def test_extract_recovers_a_merged_nora(command, adapters, tiny_base, tmp_path):
    merged, out = tmp_path / "merged", tmp_path / "found"
    own = ("--adapters", adapters["nora"], "--model", tiny_base, "--precision", "fp32")
    command("merge", *own, "--out", merged)
    words = ("extract", "--base", tiny_base, "--tuned", merged, "--out", out)
    # The change is of rank 4 within 8 leading singular vectors: these ranks hold it whole.
    status, told, err = command(*words, "--rank", "4", "--outer-rank", "8")
    assert status == 0, err
    errors = [float(line.split("error ")[1].split(" ")[0]) for line in told.splitlines()[:-1]]
    assert len(errors) == 2 and max(errors) < 1e-3  # the text encoder is found changed too
    wanted = picture(load_sdxl(str(tiny_base)), adapters["nora"])
    assert np.abs(picture(load_sdxl(str(tiny_base)), out) - wanted).mean() < 0.1
    ours, theirs = (load_sdxl(str(tiny_base)) for _ in range(2))
    load_adapter(adapters["nora"], parts_of(ours))
    load_adapter(out, parts_of(theirs))
    error = error_of(read_updates({"unet": theirs.unet}), read_updates({"unet": ours.unet}))
    assert error.worst < 1e-3
    card = json.loads((out / "card.json").read_text())
    assert (card["method"], sorted(card["fingerprints"])) == ("nora", ["text_encoder", "unet"])


def test_extract_at_a_low_rank_prints_its_true_error(command, adapters, tiny_base, tmp_path):
    merged, out = tmp_path / "merged", tmp_path / "found"
    command("merge", "--adapters", adapters["lora"], "--model", tiny_base, "--out", merged,
            "--precision", "fp32")  # fmt: skip
    words = ("extract", "--base", tiny_base, "--tuned", merged, "--out", out)
    status, told, _ = command(*words, "--rank", "1", "--outer-rank", "16")
    assert status == 0
    stated = float(told.split("unet: ")[1].split("error ")[1].split(" ")[0])
    ours, theirs = (load_sdxl(str(tiny_base)) for _ in range(2))
    load_adapter(adapters["lora"], parts_of(ours))
    load_adapter(out, parts_of(theirs))
    wanted, found = (read_updates({"unet": pipe.unet}) for pipe in (ours, theirs))
    found = {"unet": {name: found["unet"][name] for name in wanted["unet"]}}
    assert 0.2 < stated < 1
    assert error_of(found, wanted).overall == pytest.approx(stated, abs=2e-3)


def test_extract_refuses_equal_models_and_models_of_other_shapes(command, tiny_base, tmp_path):
    words = ("extract", "--base", tiny_base, "--out", tmp_path / "x", "--outer-rank", "16")
    status, _, err = command(*words, "--tuned", tiny_base)
    assert status == 2 and "nothing to extract" in err
    status, _, err = command(*words, "--tuned", "embedded")
    assert status == 2 and "differ in shape" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("export", "nowhere"), "does not exist"),
        (("export", "ADAPTER", "--out", "a.ckpt"), "ends with .safetensors"),
        (("export", "ADAPTER", "--rank", "0"), "--rank"),
        (("export", "ADAPTER", "--to", "seed", "--rank", "2"), "keeps the trained ranks"),
        (("export", "ADAPTER", "--model", "nowhere"), "--model"),
        (("mix", "--adapters", "ADAPTER", "--weights", "1", "2"), "--weights"),
        (("mix", "--adapters", "ADAPTER", "--weights", "nan"), "--weights"),
        (("merge", "--adapters", "ADAPTER", "--out", "ADAPTER"), "expected a new or empty folder"),
        (("inspect", "ADAPTER/card.json"), "not a safetensors file"),
        (("inspect", "ADAPTER", "--plot", "a.jpg"), "--plot"),
        (("extract", "--base", "x", "--tuned", "y", "--out", "z", "--rank", "0"), "--rank"),
    ],
)
def test_bad_input_is_refused_in_one_line(command, adapters, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("ADAPTER", str(adapters["nora"])) for word in words]
    status, out, err = command(*words)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 2, out + err
    assert len(lines) == 1 and message in lines[0]
    assert list(tmp_path.iterdir()) == []
