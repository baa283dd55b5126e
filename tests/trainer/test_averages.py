"""A run that averages its weights serves the average: drawn, measured, saved, gone on with."""

import re

import pytest
import torch
from safetensors.torch import load_file
from support.any_module import AnyModule
from support.halves import bytes_of
from support.loop import built, run_loop
from support.tolerances import FLOAT32
from support.trainer import only_unet, run_trainer, tiny_arguments

from nora_studio.tasks.dreambooth.previews import generate_previews
from nora_studio.trainer.averages import ExponentialAverage, copies, set_weights


def test_the_average_is_the_formulas_with_its_decay_warmed_up():
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    average = ExponentialAverage([parameter], 0.6)
    expected = parameter.detach().double()
    for step in range(1, 30):
        parameter.data += torch.randn(3, 4)
        average.after_step(1)
        decay = 0.0 if step == 1 else min(0.6, step / (9 + step))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
        trained = parameter.detach().clone()
        with average.averaged():
            torch.testing.assert_close(parameter.detach().double(), expected, **FLOAT32)
        assert torch.equal(parameter, trained)


def test_an_averaged_run_draws_and_saves_the_average_and_trains_on(
    tiny_base, photo_folder, tmp_path
):
    """Trained weights move as without it, whatever was drawn or saved in between."""
    options = {"method": "nora", "steps": 4, "sample_every": 1}
    weights, pictures = {}, {}
    for ema in (None, 0.9):
        folder = tmp_path / str(ema)
        task, batches, (state,) = built(tiny_base, photo_folder, folder, ema=ema, **options)
        subject = task.prepared.subject
        for last in (2, 4):
            run_loop([state], batches, last)
            (pictures[ema],) = generate_previews(subject, state, last)
        weights[ema] = copies(state.parameters)
        with state.averaged():
            averaged = copies(state.parameters)
            saved = folder / "saved"
            saved.mkdir()
            state.write_adapter(saved, 4)
        if ema is None:
            continue
        assert not any(torch.equal(a, b) for a, b in zip(averaged, weights[ema], strict=True))
        set_weights(state.parameters, averaged)
        state.average = None
        (again,) = generate_previews(subject, state, 5)
        assert again.tobytes() == pictures[ema].tobytes()
        assert pictures[ema].tobytes() != pictures[None].tobytes()
        tensors = load_file(saved / "unet" / "adapter_model.safetensors")
        held = {tensor.numpy().tobytes() for tensor in tensors.values()}
        model: AnyModule = state.model
        inner = [p for p in model.unet.parameters() if p.requires_grad]
        assert all(p.detach().numpy().tobytes() in held for p in inner)
    assert all(torch.equal(a, b) for a, b in zip(weights[None], weights[0.9], strict=True))


@pytest.mark.slow
def test_an_averaged_run_that_goes_on_ends_as_if_never_stopped_and_is_proven(
    tiny_base, photo_folder, tmp_path
):
    changes = only_unet({"ema": 0.8, "steps": 6, "sample-every": 2, "evaluate-every": 2})
    whole = tiny_arguments(tiny_base, photo_folder, tmp_path / "whole", changes=changes)
    outcome = run_trainer(*whole)
    assert outcome.status == 0, outcome.err
    assert "verified in a fresh pipeline" in outcome.out
    halves = tiny_arguments(tiny_base, photo_folder, tmp_path / "halves", changes=changes)
    assert run_trainer(*halves).status == 0
    folders = [tmp_path / name / "mug-nora" for name in ("whole", "halves")]
    newest = folders[1] / "checkpoints" / "step-000006"
    newest.rename(tmp_path / "taken-away")
    outcome = run_trainer(*halves, "--resume")
    assert outcome.status == 0, outcome.err
    assert "Continuing after step 4 of 6" in outcome.out
    assert bytes_of(folders[0]) == bytes_of(folders[1])
    last = "adapter_model.safetensors"
    final = (folders[0] / "adapter" / "unet" / last).read_bytes()
    assert final == (folders[0] / "checkpoints" / "step-000006" / "unet" / last).read_bytes()


@pytest.mark.parametrize("decay", ["0", "1", "-0.5"])
def test_a_decay_out_of_range_is_refused(decay, tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, changes={"ema": decay})
    outcome = run_trainer(*arguments)
    assert outcome.status == 2
    assert re.search("--ema: expected a value above 0 and below 1", outcome.errors[0])
