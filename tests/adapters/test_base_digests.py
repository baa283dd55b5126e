"""A base's digest changes with any of its numbers, and not with its dtype, files or keys."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.places import GOLDEN
from support.tiny import tiny_adapter, tiny_clip, tiny_sdxl
from support.trainer import SCRIPT, run_trainer

from nora_studio.adapters import base_digests
from nora_studio.adapters.base_digests import base_digest, digests_differ, digests_of
from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.adapters.files.card import card_text
from nora_studio.adapters.fingerprints import fingerprint, fingerprints_agree
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl, parts_of, share_weights
from nora_studio.sdxl.quantization import quantize
from nora_studio.tasks.commonsense.models import load_decoder
from nora_studio.tasks.fewshot.clip import load_clip
from nora_studio.tasks.fewshot.clip import parts_of as clip_parts

CPU = torch.device("cpu")
LLAMA = GOLDEN / "bases" / "llama"
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(tmp_path) -> Path:
    """A tiny SDXL to change, old enough to be kept in the cache."""
    folder = tiny_sdxl(tmp_path / "sdxl")
    for file in folder.rglob("*.safetensors"):
        aged(file)
    return folder


def aged(file: Path) -> None:
    minute_ago = time.time() - 60
    os.utime(file, (minute_ago, minute_ago))


def changed(file: Path, name: str, by: float = 1e-3) -> None:
    """Change one number of one tensor."""
    tensors = load_file(file)
    flat = tensors[name].flatten()
    flat[-1] += by
    tensors[name] = flat.reshape(tensors[name].shape)
    save_file(tensors, file, {"format": "pt"})


def digests(base: Path, dtype: torch.dtype = torch.float32) -> dict[str, str]:
    return digests_of(parts_of(load_sdxl(str(base), dtype)))


def test_one_number_anywhere_changes_its_parts_digest_and_no_other(base):
    before = digests(base)
    assert set(before) == {"unet", "text_encoder", "text_encoder_2"}
    probes = fingerprint(load_sdxl(str(base)).unet)
    names = list(load_file(base / UNET))
    whole = (base / UNET).read_bytes()
    for name in names[:: len(names) // 8]:
        changed(base / UNET, name)
        now = digests(base)
        assert digests_differ(before["unet"], now["unet"]), name
        assert now | {"unet": ""} == before | {"unet": ""}
        (base / UNET).write_bytes(whole)
    unseen = next(name for name in names if _is_unseen(base, name, probes))
    assert unseen, "sixteen probes do not look at every matrix"


def test_files_with_ambiguous_headers_have_no_digest(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"one": torch.zeros(4), "two": torch.ones(4)}, file)
    content = file.read_bytes()
    text = content[8 : 8 + int.from_bytes(content[:8], "little")].decode().strip()
    assert _digest_in(tmp_path)
    again = json.dumps({"one": json.loads(text)["two"]})[1:-1]
    for header in (f"{text[:-1]}, {again}}}", text.replace("[16,32]", "[0,16]")):
        size = len(header).to_bytes(8, "little")
        file.write_bytes(size + header.encode() + content[-32:])
        assert _digest_in(tmp_path) == ""


def _digest_in(folder: Path) -> str:
    module = torch.nn.Linear(1, 1)
    base_digests.keep_base_folder(module, folder)
    return base_digest(module)


def _is_unseen(base: Path, name: str, probes: list[float]) -> bool:
    whole = (base / UNET).read_bytes()
    changed(base / UNET, name, 1.0)
    agree = fingerprints_agree(probes, fingerprint(load_sdxl(str(base)).unet))
    (base / UNET).write_bytes(whole)
    return agree


def test_the_dtype_that_it_is_loaded_in_changes_nothing(base):
    assert digests(base) == digests(base, torch.bfloat16) == digests(base, torch.float16)
    assert all(digest.startswith("F32:") for digest in digests(base).values())


def test_an_adapter_and_a_second_tree_over_the_base_have_its_digest(base):
    unet = load_sdxl(str(base)).unet
    assert base_digest(unet) == base_digest(share_weights(unet)) == digests(base)["unet"]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_base_has_the_digest_of_the_original(bits):
    pytest.importorskip("bitsandbytes")
    plain = base_digest(load_decoder(str(LLAMA), torch.float32, CPU))
    decoder = load_decoder(str(LLAMA), torch.float32, CPU)
    quantize("decoder", decoder, bits, CPU)
    assert base_digest(decoder) == plain != ""


def test_moved_sharded_and_otherwise_named_weights_are_the_same_base(base, tmp_path):
    before = digests(base)
    moved = base.rename(tmp_path / "other")
    tensors = load_file(moved / UNET)
    names = list(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, moved / "unet" / file, {"format": "pt"})
    places = {name: file for file, own in shards.items() for name in own}
    index = moved / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (moved / UNET).unlink()
    text = moved / "text_encoder" / "model.safetensors"
    old = {name.removeprefix("text_model."): tensor for name, tensor in load_file(text).items()}
    new = {f"text_model.{name}": tensor for name, tensor in old.items()}
    extra = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file(new | extra, text, {"format": "pt"})
    assert digests(moved) == before


def test_a_tied_tensor_may_be_in_the_file_once_or_twice(tmp_path):
    folder = shutil.copytree(LLAMA, tmp_path / "llama")
    before = base_digest(load_decoder(str(folder), torch.float32, CPU))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    head = "lm_head.weight"
    other = {k: t for k, t in tensors.items() if k != head} if head in tensors else (
        tensors | {head: tensors["model.embed_tokens.weight"].clone()}
    )  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    if not config.get("tie_word_embeddings"):
        pytest.skip("this model's are not tied")
    save_file(other, file, {"format": "pt"})
    assert base_digest(load_decoder(str(folder), torch.bfloat16, CPU)) == before


def test_a_base_in_another_precision_is_compared_by_fingerprint_only(base, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", load_sdxl(str(base)), "lora")
    _with_digests(adapter, digests(base))
    half = Path(shutil.copytree(base, tmp_path / "half"))
    for file in half.rglob("*.safetensors"):
        tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    pipe = load_sdxl(str(half))
    assert base_digest(pipe.unet).startswith("F16:")
    assert load_adapter(adapter, parts_of(pipe)).method == "lora"


def _with_digests(adapter: Path, known: dict[str, str]) -> None:
    card = json.loads((adapter / "card.json").read_text())
    own = {part: known[part] for part in card["fingerprints"]}
    (adapter / "card.json").write_text(json.dumps(card | {"digests": own}))


def test_an_adapter_is_refused_on_a_base_that_differs_where_no_probe_looks(base, tmp_path):
    adapter = tiny_adapter(tmp_path / "adapter", load_sdxl(str(base)), "lora")
    _with_digests(adapter, digests(base))
    changed(base / UNET, "conv_norm_out.bias")
    with pytest.raises(StudioError, match=r"trained on another base.*unet weights differ"):
        load_adapter(adapter, parts_of(load_sdxl(str(base))))


def test_an_earlier_card_has_no_digests_and_a_new_one_is_written_without_empty_ones():
    card = open_adapter(GOLDEN / "runs" / "mug-nora").card
    assert card.digests == {}
    assert "digests" not in card_text(card)


def test_each_clip_encoder_has_its_own_digest_in_any_dtype(tmp_path):
    folder = tiny_clip(tmp_path / "clip")
    before = digests_of(clip_parts(load_clip(str(folder), torch.float32, CPU).model))
    cast = digests_of(clip_parts(load_clip(str(folder), torch.bfloat16, CPU).model))
    assert before == cast
    assert set(before) == {"vision", "text"}
    changed(folder / "open_clip_model.safetensors", "visual.ln_post.bias")
    now = digests_of(clip_parts(load_clip(str(folder), torch.float32, CPU).model))
    assert now["text"] == before["text"]
    assert digests_differ(now["vision"], before["vision"])


def test_files_are_hashed_once_and_again_only_when_one_has_changed(base, monkeypatch):
    read: list[Path] = []
    plain = Path.open

    def watched(self, mode="r", buffering=-1, *more, **named):
        if buffering == 0:  # a tensor's bytes; the headers are read otherwise
            read.append(self)
        return plain(self, mode, buffering, *more, **named)

    monkeypatch.setattr(Path, "open", watched)
    before = digests(base)
    assert read
    read.clear()
    assert digests(base) == before
    assert not read, "the second time it costs nothing"
    changed(base / UNET, "conv_norm_out.bias")
    assert digests_differ(digests(base)["unet"], before["unet"])
    assert {file.name for file in read} == {UNET.name}
    read.clear()
    digests(base)
    assert read, "a file that was written this moment is not kept"
    aged(base / UNET)
    digests(base)
    cache = base_digests.default_cache_folder("bases")
    for file in cache.iterdir():
        file.write_text("F32:nonsense")
    read.clear()
    assert digests_differ(digests(base)["unet"], before["unet"])
    assert read, "what is damaged in the cache is not believed"


@pytest.mark.slow
def test_a_changed_base_stops_a_resumed_run_of_each_task(tmp_path, monkeypatch):
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    monkeypatch.chdir(folder)
    tiny_clip(folder / "bases" / "clip")
    tasks = {
        "stopped-nora": (SCRIPT, f"bases/sdxl/{UNET}", "conv_norm_out.bias"),
        "tiny-nora": (
            SCRIPT.with_name("clip_fewshot.py"),
            "bases/clip/open_clip_model.safetensors",
            "visual.ln_post.bias",
        ),
        "q-nora": (
            SCRIPT.with_name("llama_commonsense.py"),
            "bases/llama/model.safetensors",
            "model.norm.weight",
        ),
    }
    for run, (script, weights, tensor) in tasks.items():
        words = ("--config", f"runs/{run}/config.toml", "--resume")
        outcome = run_trainer(*words, script=script)
        assert outcome.status == 0, outcome.err
        changed(folder / weights, tensor)
        outcome = run_trainer(*words, script=script)
        assert outcome.status == 2, run
        (error,) = outcome.errors
        assert "have changed since. Restore the model" in error


def test_what_cannot_be_read_has_no_digest(tmp_path):
    module = torch.nn.Linear(2, 2)
    assert base_digest(module) == ""
    for content in (b"", b"\xff" * 40, b"\x02\x00\x00\x00\x00\x00\x00\x00[]"):
        (tmp_path / "model.safetensors").write_bytes(content)
        base_digests.keep_base_folder(module, tmp_path)
        assert base_digest(module) == ""
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("[1]")
    base_digests.keep_base_folder(module, tmp_path)
    assert base_digest(module) == ""
