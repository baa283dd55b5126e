"""The honest curve: photos kept out are never trained on, and one state has one loss."""

import pytest
import torch
from accelerate import Accelerator
from support.trainer import photo_set, run_trainer, tiny_arguments, tiny_options, tiny_subject

from nora_studio.errors import StudioError
from nora_studio.options.defaults import with_recommended
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import load_sdxl
from nora_studio.tasks.dreambooth.settings import resolve
from nora_studio.tasks.dreambooth.setup import prepare
from nora_studio.tasks.dreambooth.step import DreamboothStep
from nora_studio.tasks.dreambooth.validation import LEVELS, FixedBatches, measure


@pytest.fixture
def prepared(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path, hold_out=1)
    tiny_subject(options)  # resets the accelerator's state
    pipe = load_sdxl(options.model)
    return prepare(resolve(options), pipe, photo_set(options), lambda _: None)


def test_a_photo_held_out_is_measured_and_never_drawn(prepared):
    assert prepared.fixed.name == "held_out_loss"
    [kept_out] = prepared.fixed.batches[0]["latents"]
    [trained] = prepared.batches.caches
    assert len(trained.mean) == 2
    assert all(not torch.equal(kept_out, latents) for latents in trained.mean)


def test_without_one_the_training_photos_are_measured(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path)
    tiny_subject(options)
    pipe = load_sdxl(options.model)
    fixed = prepare(resolve(options), pipe, photo_set(options), lambda _: None).fixed
    assert fixed is not None and fixed.name == "fixed_loss"
    assert len(fixed.batches) == LEVELS and len(fixed.batches[0]["latents"]) == 3


def test_a_state_has_one_loss_and_measuring_disturbs_nothing(prepared):
    subject, accelerator = prepared.subject, Accelerator(cpu=True)
    step = DreamboothStep(subject.pipe.unet, {}, subject.text, subject.process).train()
    before, batches = torch.get_rng_state(), prepared.batches.state()
    first = measure(prepared.fixed, step, accelerator)
    assert measure(prepared.fixed, step, accelerator) == first
    assert step.training and torch.equal(before, torch.get_rng_state())
    after = prepared.batches.state()
    assert all(torch.equal(batches[name], after[name]) for name in batches)
    with torch.no_grad():
        expected = sum(step.eval()(**batch).item() for batch in prepared.fixed.batches) / LEVELS
    assert first == pytest.approx(expected, rel=1e-6)


def test_the_noise_levels_span_the_schedule(prepared):
    steps = [int(batch["timesteps"][0]) for batch in prepared.fixed.batches]
    assert steps == [125, 375, 625, 875]
    again = FixedBatches.of(
        prepared.batches.caches, torch.zeros(2, dtype=torch.int64), 1000, is_held_out=False
    )
    assert not torch.equal(again.batches[0]["noise"], again.batches[1]["noise"])


def test_holding_out_every_photo_is_refused(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path, hold_out=3)
    with pytest.raises(StudioError, match="expected to hold out fewer than the 3 photos"):
        photo_set(with_recommended(options))


@pytest.mark.slow
def test_the_log_has_the_curve_from_the_base_on(tiny_base, photo_folder, tmp_path):
    changes = {"hold-out": 1, "evaluate-every": 2}
    done = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", changes))
    assert done.status == 0, done.err
    curves = []
    for folder in sorted(tmp_path.glob("mug-*")):
        rows = [row for row in Run(folder).read_log() if "held_out_loss" in row]
        assert [row["step"] for row in rows] == [0, 2, 4, 6]
        curves.append([row["held_out_loss"] for row in rows])
    assert curves[0][0] == curves[1][0]  # both twins begin at the base
    assert curves[0][-1] != curves[0][0] and curves[0][-1] != curves[1][-1]
