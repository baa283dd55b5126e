"""Text encoders that stop learning after some steps: constant, cheap, and resumed to the bit."""

import itertools

import pytest
import torch
from safetensors.torch import load_file
from support.any_module import AnyModule
from support.halves import assert_interruptions_change_nothing, begun, go_on
from support.trainer import run_trainer, tiny_arguments, tiny_options

from nora_studio.errors import StudioError
from nora_studio.options.config import PartOptions
from nora_studio.tasks.dreambooth.freeze_text_encoders import freeze_text_encoders
from nora_studio.trainer.averages import copies
from nora_studio.trainer.loop import Plan

ENCODERS = ("text_encoder", "text_encoder_2")
WEIGHTS = "adapter_model.safetensors"


def plain(**changes) -> dict:
    """Options for one method without an outer rank."""
    part = PartOptions(rank=4, learning_rate=0.05)
    return {"method": "lora", "unet": part, **dict.fromkeys(ENCODERS, part)} | changes


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"method": "nora,lora", "dropout": 0.2, "caption_dropout": 0.5}, marks=pytest.mark.slow
        ),
        {"method": "nora", "ema": 0.8, "weight_decay": 0.1},
        pytest.param(plain(optimizer="schedule-free"), marks=pytest.mark.slow),
        pytest.param(plain(optimizer="prodigy", weight_decay=0.1), marks=pytest.mark.slow),
        pytest.param(plain(optimizer="adamw8bit"), marks=pytest.mark.slow),
        pytest.param(plain(method="lora-fa"), marks=pytest.mark.slow),
        pytest.param(plain(method="adalora,dylora"), marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(str(changes.get(k, "")) for k in ("method", "optimizer")),
)
def test_it_goes_on_exactly_from_either_side_of_the_end(changes, tiny_base, photo_folder, tmp_path):
    options = {"text_encoder_steps": 2, "steps": 4} | changes
    at = (1, 2, 3) if "dropout" in changes else (2, 3)
    folders = assert_interruptions_change_nothing(tiny_base, photo_folder, tmp_path, at, **options)
    for folder in folders:
        saved = [folder / "checkpoints" / f"step-{step:06d}" for step in (2, 3, 4)]
        for part in (*ENCODERS, "unet"):
            states = [load_file(at / part / WEIGHTS) for at in saved]
            moved = [
                any(not torch.equal(one[name], two[name]) for name in one)
                for one, two in itertools.pairwise(states)
            ]
            assert moved == [part == "unet"] * 2, (folder, part)


def test_settled_encoders_are_asked_no_more_and_hold_no_state(tiny_base, photo_folder, tmp_path):
    options = {"method": "nora", "text_encoder_steps": 2, "steps": 4, "dropout": 0.3}
    (state,), batches, plan = begun(tiny_base, photo_folder, tmp_path, **options)
    module: AnyModule = state.model
    asked = []
    for encoder in module.encoders.values():
        encoder.register_forward_hook(lambda *_: asked.append(module.unet.training))
    go_on([state], batches, plan)
    prompts = len(module.ids_text_encoder)
    assert len(asked) == 2 * 2 + 2 * prompts  # two steps, then each prompt once
    settled = {id(p) for p in module.encoders.parameters()}
    for parameter in state.parameters:
        kept = dict(state.optimizer.state.get(parameter, {}))
        assert bool(kept) == (id(parameter) not in settled)
        assert parameter.requires_grad == (id(parameter) not in settled)


def test_what_settled_encoders_say_is_what_they_said_last_without_dropout(
    tiny_base, photo_folder, tmp_path
):
    options = {"method": "nora", "text_encoder_steps": 3, "steps": 3 + 1, "dropout": 0.3}
    (state,), batches, plan = begun(tiny_base, photo_folder, tmp_path, **options)
    until = Plan(**{**vars(plan), "steps": 3})
    go_on([state], batches, until)
    batch = batches.next()
    module = state.model
    with torch.no_grad():
        module.eval()
        live = module(**batch)
        module.train()
        freeze_text_encoders(state, 3, until=3)
        assert not module.encoders_frozen
        freeze_text_encoders(state, 4, until=3)
        assert module.encoders_frozen
        module.eval()
        assert torch.equal(module(**batch), live)


def test_an_averaged_encoder_keeps_its_average(tiny_base, photo_folder, tmp_path):
    options = {"method": "nora", "text_encoder_steps": 2, "steps": 4, "ema": 0.8}
    (state,), batches, plan = begun(tiny_base, photo_folder, tmp_path, **options)
    go_on([state], batches, plan)
    module: AnyModule = state.model
    raw = copies(list(module.encoders.parameters()))
    with state.averaged():
        averaged = copies(list(module.encoders.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(raw, averaged, strict=True))
    file = tmp_path / "mug-nora" / "checkpoints" / "step-000002" / "text_encoder" / WEIGHTS
    saved = {tensor.numpy().tobytes() for tensor in load_file(file).values()}
    trained = [p for p in state.parameters if not p.requires_grad]
    first = trained[0].detach().numpy().tobytes()
    assert first in saved


@pytest.mark.slow
def test_a_run_whose_encoders_settle_is_proven(tiny_base, photo_folder, tmp_path):
    changes = {"text-encoder-steps": 2, "steps": 4, "evaluate-every": 2, "ema": 0.8}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, changes=changes)
    outcome = run_trainer(*arguments)
    assert (outcome.status, outcome.errors) == (0, []), outcome.err
    assert "verified in a fresh pipeline" in outcome.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_encoder_steps": 6}, "--text-encoder-steps: expected fewer than the 6 steps; got 6"),
        ({"text_encoder_steps": 0}, "--text-encoder-steps: expected a value above 0"),
        (
            dict.fromkeys(ENCODERS, PartOptions(train=False)),
            "--text-encoder-steps: expected the UNet and a text encoder in training",
        ),
        (
            {"unet": PartOptions(train=False)},
            "--text-encoder-steps: expected the UNet and a text encoder in training",
        ),
    ],
)
def test_an_end_that_nothing_would_read_is_refused(
    changes, words, tiny_base, photo_folder, tmp_path
):
    with pytest.raises(StudioError, match=words):
        tiny_options(tiny_base, photo_folder, tmp_path, **({"text_encoder_steps": 2} | changes))
