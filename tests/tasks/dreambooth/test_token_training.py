"""New tokens through the trainer: what is learned, what stays, and what goes on to the bit."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.loop import built, run_loop
from support.tiny import RARE_TOKEN, SIZE
from support.trainer import STEPS, Outcome, only_unet, run_trainer, tensors_of, tiny_arguments

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.new_tokens import TOKENIZERS
from nora_studio.errors import StudioError
from nora_studio.options.config import PartOptions
from nora_studio.runs.runs import Run
from nora_studio.sdxl.generate import adapter_on, generate_images
from nora_studio.sdxl.models import load_sdxl

WORDS = (f"<{RARE_TOKEN}-1>", f"<{RARE_TOKEN}-2>")
TOKENS = {"new-tokens": 2, "token-rate": 0.02}
# Everything that a prompt can be in training, with both encoders frozen.
FROZEN = only_unet(
    TOKENS
    | {"caption-dropout": 0.3, "prior-weight": 0.5, "class-pictures": 2, "keep-checkpoints": 9}
)


@pytest.fixture(scope="module")
def frozen(tiny_base, photo_folder, tmp_path_factory) -> tuple[Path, Outcome]:
    """Twins whose encoders are frozen, but for two new tokens."""
    runs = tmp_path_factory.mktemp("frozen")
    return runs, run_trainer(*tiny_arguments(tiny_base, photo_folder, runs, "nora,lora", FROZEN))


def test_tokens_are_learned_beside_frozen_encoders_and_go_with_the_adapter(frozen, tiny_base):
    runs, outcome = frozen
    assert outcome.status == 0, outcome.err
    assert f"[V] is '{' '.join(WORDS)}', starting from 'mug'" in outcome.out
    assert outcome.out.count("verified in a fresh pipeline") == 2
    table = load_sdxl(str(tiny_base)).text_encoder.get_input_embeddings().weight
    rows = {}
    for method in ("nora", "lora"):
        folder = runs / f"mug-{method}" / "adapter"
        assert sorted(p.name for p in folder.iterdir()) == [
            "card.json", "embeddings.safetensors", "unet",
        ]  # fmt: skip
        card, state = open_adapter(folder).card, load_file(folder / "embeddings.safetensors")
        assert (tuple(card.tokens), card.trigger) == (WORDS, " ".join(WORDS))
        assert {key: tuple(t.shape) for key, t in state.items()} == {
            "clip_l": (2, 32), "clip_g": (2, 32),
        }  # fmt: skip
        assert {t.dtype for t in state.values()} == {torch.float32}
        rows[method] = state["clip_l"]
        assert (torch.cdist(state["clip_l"], table).amin(dim=1) > 0.02).all()  # no word of the base
        line = Run.open(runs / f"mug-{method}").read_log()[-1]
        assert set(line["learning_rate"]) == {"unet", "tokens"}
    assert not torch.equal(rows["nora"], rows["lora"])  # each twin has its own


@pytest.mark.slow
def test_a_twin_with_tokens_is_what_it_would_be_alone(frozen, tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", FROZEN)
    assert run_trainer(*arguments).status == 0
    alone, twin = tmp_path / "mug-lora" / "adapter", frozen[0] / "mug-lora" / "adapter"
    assert tensors_of(alone) == tensors_of(twin)


@pytest.mark.slow
def test_checkpointed_activations_change_no_bit_of_the_tokens(
    frozen, tiny_base, photo_folder, tmp_path
):
    changes = FROZEN | {"gradient-checkpointing": True}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "nora", changes)
    assert run_trainer(*arguments).status == 0
    again, before = tmp_path / "mug-nora" / "adapter", frozen[0] / "mug-nora" / "adapter"
    assert tensors_of(again) == tensors_of(before)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nora", pytest.param("lora-fa", marks=pytest.mark.slow)])
def test_a_stopped_run_with_new_tokens_ends_as_if_never_stopped(
    tiny_base, photo_folder, tmp_path, method
):
    changes = TOKENS | {"keep-checkpoints": 9, "sample-every": 0}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, method, changes)
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    run = Run(tmp_path / f"mug-{method}")
    whole = {name: tensors_of(run.folder / name) for name in ("adapter", "checkpoints/step-000006")}
    assert "embeddings.safetensors" in whole["checkpoints/step-000006"]
    middle = tensors_of(run.folder / "checkpoints/step-000004")["embeddings.safetensors"]
    assert middle != whole["adapter"]["embeddings.safetensors"]
    for name in ("adapter", "checkpoints/step-000006", "checkpoints/step-000004"):
        shutil.rmtree(run.folder / name)
    outcome = run_trainer(*arguments, "--resume")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 2 of 6" in outcome.out
    for name, files in whole.items():
        assert tensors_of(run.folder / name) == files, name


def test_a_checkpoint_without_its_tokens_is_refused(frozen, tiny_base, photo_folder, tmp_path):
    folder = tmp_path / "step"
    shutil.copytree(frozen[0] / "mug-lora" / "checkpoints" / f"step-{STEPS:06d}", folder)
    (folder / "embeddings.safetensors").unlink()
    options: dict = {"method": "lora", "new_tokens": 2}
    options |= dict.fromkeys(TOKENIZERS, PartOptions(train=False))
    _, _, (state,) = built(tiny_base, photo_folder, tmp_path / "runs", **options)
    with pytest.raises(StudioError, match=r"embeddings\.safetensors, which does not exist"):
        state.load_adapter(folder)


def test_the_first_step_moves_every_number_of_the_rows_by_their_own_rate(
    tiny_base, photo_folder, tmp_path
):
    """Adam's first step is the rate itself; weight decay would pull at the words."""
    options = {"method": "lora", "new_tokens": 2, "token_rate": 0.007, "schedule": "constant"}
    options |= {"weight_decay": 0.5, "steps": 1}
    task, batches, (state,) = built(tiny_base, photo_folder, tmp_path, **options)
    subject = task.prepared.subject
    tables = [getattr(subject.pipe, part).get_input_embeddings() for part in TOKENIZERS]
    before = [table.weight.clone() for table in tables]
    assert subject.tokens is not None
    groups = {group["name"]: group for group in state.optimizer.param_groups}
    run_loop([state], batches, 1)
    for start, row in zip(subject.tokens.rows.values(), groups["tokens"]["params"], strict=True):
        moved = (row.detach() - start).abs()
        assert torch.allclose(moved, torch.full_like(moved, 0.007), rtol=1e-2)
    for table, kept in zip(tables, before, strict=True):
        assert torch.equal(table.weight, kept)
        assert table.weight.grad is None


def test_no_prompt_with_new_tokens_is_kept_on_disk(tiny_base, photo_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NORA_STUDIO_CACHE", str(tmp_path / "cache"))
    built(tiny_base, photo_folder, tmp_path, method="lora", new_tokens=1)
    kept = {folder.name for folder in (tmp_path / "cache").iterdir()}
    assert kept == {"latents", "bases"}, "of the words, nothing"


@pytest.mark.slow
def test_a_bfloat16_base_keeps_float32_tokens(tiny_base, photo_folder, tmp_path):
    changes = only_unet(TOKENS | {"precision": "bf16", "steps": 3, "sample-every": 0})
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "lora", changes)
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    for rows in load_file(tmp_path / "mug-lora" / "adapter" / "embeddings.safetensors").values():
        assert rows.dtype == torch.float32
        assert not torch.equal(rows, rows.bfloat16().float())


def test_what_was_learned_is_in_the_tokens_too(frozen, tiny_base):
    """The same adapter draws something else if its words have other vectors."""
    adapter = frozen[0] / "mug-nora" / "adapter"
    tokens = open_adapter(adapter).new_tokens()
    assert tokens is not None
    pipe = load_sdxl(str(tiny_base))
    pictures = []
    with adapter_on(pipe, adapter) as card:
        assert card is not None
        for spoil in (False, True):
            if spoil:
                pipe.text_encoder.get_input_embeddings().rows.data.mul_(-1)
            drawn = generate_images(
                pipe, ["a [V] mug"], [0], steps=2, guidance=5, size=SIZE, trigger=card.trigger
            )
            pictures.append(next(iter(drawn))[2].tobytes())
    assert pictures[0] != pictures[1]
