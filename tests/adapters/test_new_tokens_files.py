"""Every file and command of an adapter includes its new tokens, or refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from support.tiny import SIZE
from support.tokens import adapter_with, drawn_tokens

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.embeddings import write_embeddings
from nora_studio.adapters.files.identify import EMBEDDINGS
from nora_studio.adapters.new_tokens import TOKENIZERS, NewTokens
from nora_studio.errors import StudioError
from nora_studio.sdxl.columns import content_digest
from nora_studio.sdxl.generate import adapter_on, generate_images
from nora_studio.sdxl.models import load_sdxl

WORDS = ("<mug-1>", "<mug-2>")


@pytest.fixture(scope="module")
def adapters(tiny_base, tmp_path_factory) -> dict[str, Path]:
    """Three adapters with tokens, the last one's of another name. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "nora": adapter_with(folder / "mug-nora" / "adapter", tiny_base, drawn_tokens(*WORDS)),
        "lora": adapter_with(
            folder / "mug-lora" / "adapter", tiny_base, drawn_tokens(*WORDS, seed=5), "lora"
        ),
        "dog": adapter_with(
            folder / "dog-lora" / "adapter", tiny_base, drawn_tokens("<dog>", seed=6), "lora"
        ),
    }


def drawn(pipe: StableDiffusionXLPipeline, trigger: str) -> np.ndarray:
    pictures = generate_images(
        pipe, ["a [V] mug"], [0], steps=2, guidance=5, size=SIZE, trigger=trigger
    )
    return np.asarray(next(iter(pictures))[2], dtype=np.int64)


def picture(base: Path, adapter: Path) -> np.ndarray:
    pipe = load_sdxl(str(base))
    with adapter_on(pipe, adapter) as card:
        assert card is not None
        return drawn(pipe, card.trigger)


def off(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


@pytest.mark.parametrize("to", ["kohya", "diffusers", "seed"])
def test_an_exported_file_generates_the_same_image_with_its_tokens(
    command, adapters, tiny_base, tmp_path, to
):
    out = tmp_path / "mug.safetensors"
    words = ("--to", to, "--out", out, "--precision", "fp32", "--model", tiny_base)
    status, told, err = command("export", adapters["nora"], *words)
    assert status == 0, err
    assert " ".join(WORDS) in told
    beside = tmp_path / "mug.embedding.safetensors"
    assert beside.exists() == (to != "seed")
    tokens, wanted = open_adapter(out).new_tokens(), open_adapter(adapters["nora"]).new_tokens()
    assert tokens is not None and wanted is not None and tokens.words == WORDS
    for part in TOKENIZERS:
        assert torch.equal(tokens.rows[part], wanted.rows[part])
    assert off(picture(tiny_base, out), picture(tiny_base, adapters["nora"])) <= 1
    if to == "seed":
        return
    assert {key: tuple(t.shape) for key, t in load_file(beside).items()} == {
        "clip_l": (2, 32),
        "clip_g": (2, 32),
    }
    phrase = "mug.embedding" if to == "kohya" else " ".join(WORDS)
    _, told, _ = command("inspect", out, "--metadata")
    assert f"modelspec.trigger_phrase  {phrase}" in " ".join(told.split("\n")).replace("   ", "  ")
    assert phrase in told and "2, with trained embeddings" in told
    digest = content_digest(load_sdxl(str(tiny_base)), open_adapter(out))
    beside.write_bytes(beside.read_bytes()[:-4] + b"\0\0\0\0")
    assert content_digest(load_sdxl(str(tiny_base)), open_adapter(out)) != digest
    beside.unlink()
    pipe = load_sdxl(str(tiny_base))
    kept = pipe.tokenizer
    with pytest.raises(StudioError, match=r"<mug-1> <mug-2> in .*mug\.embedding\.safetensors"):
        adapter_on(pipe, out).__enter__()
    assert pipe.tokenizer is kept


@pytest.mark.parametrize("words", [("<mug>",), WORDS])
def test_diffusers_generates_the_same_image_by_the_lines_that_export_prints(
    command, tiny_base, tmp_path, words
):
    adapter = adapter_with(tmp_path / "a" / "adapter", tiny_base, drawn_tokens(*words))
    out = tmp_path / "mug.safetensors"
    flags = ("--to", "diffusers", "--out", out, "--precision", "fp32", "--model", tiny_base)
    status, told, err = command("export", adapter, *flags)
    assert status == 0, err
    lines = told.split("load_lora_weights`:\n")[1]
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    bare = drawn(pipe, "mug")
    pipe.load_lora_weights(str(out))
    without = drawn(pipe, "mug")
    exec("\n".join(line.strip() for line in lines.splitlines()), {"pipe": pipe})
    theirs = drawn(pipe, " ".join(words))
    assert off(theirs, picture(tiny_base, adapter)) <= 1
    assert off(theirs, without) > 5 and off(without, bare) > 5


def test_merging_adds_the_words_to_the_pipeline(command, adapters, tiny_base, tmp_path):
    out = tmp_path / "merged"
    both = (adapters["nora"], adapters["dog"])
    flags = ("--out", out, "--precision", "fp32", "--model", tiny_base)
    status, told, err = command("merge", "--adapters", *both, *flags, "--weights", "1", "0")
    assert status == 0, err
    assert "<mug-1> <mug-2> <dog>" in told
    wanted = picture(tiny_base, adapters["nora"])
    assert off(drawn(load_sdxl(str(out)), " ".join(WORDS)), wanted) <= 1


def test_adapters_whose_tokens_share_a_name_cannot_be_combined(
    command, adapters, tiny_base, tmp_path
):
    same = ("--adapters", adapters["nora"], adapters["lora"], "--model", tiny_base)
    for name, out in (("mix", tmp_path / "a.safetensors"), ("merge", tmp_path / "merged")):
        status, _, err = command(name, *same, "--out", out)
        assert status == 2
        assert "<mug-1>" in err.splitlines()[-1] and "--trigger" in err.splitlines()[-1]
        assert not out.exists()


def test_a_mix_carries_the_tokens_of_all_its_adapters(command, adapters, tiny_base, tmp_path):
    out = tmp_path / "a.safetensors"
    both = ("--adapters", adapters["nora"], adapters["dog"], "--model", tiny_base)
    status, _, err = command("mix", *both, "--out", out)
    assert status == 0, err
    tokens = open_adapter(out).new_tokens()
    assert tokens is not None and tokens.words == (*WORDS, "<dog>")
    assert open_adapter(out).card.trigger == tokens.trigger
    assert torch.equal(tokens.rows["text_encoder"][2:], drawn_tokens("<dog>", seed=6).rows[
        "text_encoder"
    ])  # fmt: skip


def test_a_published_page_shows_how_to_load_the_tokens(command, adapters, tiny_base):
    flags = ("--dry-run", "--model", tiny_base)
    status, told, err = command("push", adapters["nora"], "me/mug", *flags)
    assert status == 0, err
    for name in ("pytorch_lora_weights", "mug-nora"):
        assert f"  {name}.embedding.safetensors" in told
    assert "hf_hub_download('me/mug', 'pytorch_lora_weights.embedding.safetensors')" in told
    assert "pipe.load_textual_inversion(rows['clip_g'], token=['<mug-1>', '<mug-2>']" in told
    assert str(tiny_base) not in told


def test_twins_with_tokens_are_compared_with_the_base(command, adapters, tiny_base, tmp_path):
    both = ("--adapters", adapters["nora"], adapters["lora"], "--model", tiny_base)
    flags = ("--prompts", "a [V] mug", "--steps", "2", "--size", SIZE, "--out", tmp_path / "c")
    status, _, err = command("compare", *both, *flags)
    assert status == 0, err
    found = {p.parent.name: p.read_bytes() for p in (tmp_path / "c").rglob("*seed0.png")}
    assert len(found) == len(set(found.values())) == 3


@pytest.mark.parametrize("spoil", ["missing", "rows", "keys", "width"])
def test_damaged_tokens_are_refused_in_one_line(tiny_base, tmp_path, spoil):
    adapter = adapter_with(tmp_path / "adapter", tiny_base, drawn_tokens(*WORDS))
    file, card, tokens = adapter / EMBEDDINGS, open_adapter(adapter).card, drawn_tokens(*WORDS)
    if spoil == "missing":
        file.unlink()
    elif spoil == "rows":
        write_embeddings(file, drawn_tokens("<mug-1>"), card)
    elif spoil == "keys":
        write_embeddings(
            file, NewTokens(WORDS, {"text_encoder": tokens.rows["text_encoder"]}), card
        )
    else:
        wide = {part: torch.zeros(2, 48) for part in TOKENIZERS}
        write_embeddings(file, NewTokens(WORDS, wide), card)
    pipe = load_sdxl(str(tiny_base))
    before, prompt = pipe.tokenizer, "<mug-1>"
    with pytest.raises(StudioError) as refusal:
        adapter_on(pipe, adapter).__enter__()
    assert "\n" not in str(refusal.value) and prompt in str(refusal.value)
    assert pipe.tokenizer is before
    assert not hasattr(pipe.unet, "peft_config")
