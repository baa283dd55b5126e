"""Activation statistics and the paper's start, from hooks to the trainer, against float64."""

import dataclasses
import json

import pytest
import reference
import torch
from peft import get_peft_model
from support.any_module import AnyModule
from support.families import FAMILIES, make
from support.loop import task_of, train_state_of
from support.tolerances import FLOAT32_FACTORS, FLOAT64_SUMS, TOLERANCE
from support.trainer import run_trainer, tiny_arguments, tiny_options, tiny_subject
from torch import nn

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear
from nora_studio.nora.calibration import record_mean_abs_inputs
from nora_studio.runs.runs import Run
from nora_studio.tasks.dreambooth.activations import first_batch, record_activations

PARTS = ("unet", "text_encoder", "text_encoder_2")


class Spied(nn.Module):
    """Keeps every input of a layer, whole: what the statistics are computed from once more."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.seen = layer, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.layer(x)

    def mean_abs_input(self) -> torch.Tensor:
        rows = torch.cat([x.double().reshape(-1, x.shape[-1]) for x in self.seen])
        return rows.abs().mean(dim=0)


def spy_on(model: nn.Module, names: list[str]) -> dict[str, Spied]:
    spies = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        spies[name] = Spied(model.get_submodule(name))
        setattr(model.get_submodule(parent), child, spies[name])
    return spies


def assert_follows(layer: AnyModule, activity: torch.Tensor) -> None:
    """The layer's outer pair is the SVD of W diag(s), s undone on the input side (float64)."""
    weight = layer.base_layer.weight.detach().double()
    activity = activity.clamp(min=float(activity.max()) * 1e-3)
    up, down = layer.nora_up["default"].double(), layer.nora_down["default"].double()
    rank = up.shape[1]
    left, singular, right = torch.linalg.svd(weight * activity, full_matrices=False)
    best = left[:, :rank] * singular[:rank] @ right[:rank]
    core = torch.diag(singular[:rank])
    torch.testing.assert_close(up @ core @ (down * activity), best, **FLOAT32_FACTORS)
    inner = layer.nora_inner_up["default"]
    expected = singular[: inner.shape[1]].sqrt()
    torch.testing.assert_close(inner.diagonal().double(), expected, **TOLERANCE[torch.float32])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_equal_the_inputs_means_and_change_the_factors(family, dtype):
    made = FAMILIES[family]
    model, spied = make(made, dtype=dtype), make(made, dtype=dtype)
    names = [name for name, _ in model.named_modules() if name.endswith(made.targets)]
    spies = spy_on(spied, names)
    layers = {name: model.get_submodule(name) for name in names}
    with torch.no_grad(), record_mean_abs_inputs(layers) as means:
        for _ in range(2):
            made.run(model)
    with torch.no_grad():
        for _ in range(2):
            made.run(spied)
    assert list(means) == names
    for name, spy in spies.items():
        assert means[name].dtype == torch.float64
        torch.testing.assert_close(means[name], spy.mean_abs_input(), **FLOAT64_SUMS)
    config = NoraConfig(
        r=4, outer_rank=16, target_modules=names, outer="activation", mean_abs_inputs=means
    )
    adapted = get_peft_model(model.float(), config)
    for name, spy in spies.items():
        layer = adapted.get_submodule(f"base_model.model.{name}")
        assert_follows(layer, spy.mean_abs_input())


def test_nothing_is_recorded_after_the_block_even_when_it_fails():
    layer = nn.Linear(4, 4)
    x = torch.tensor([[1.0, -2.0, 0.0, 3.0], [3.0, 2.0, 0.0, -1.0]])
    with record_mean_abs_inputs({"a": layer, "never": nn.Linear(4, 4)}) as means:
        layer(x)
        assert means == {}
    layer(100 * x)
    assert means.keys() == {"a"} and means["a"].tolist() == [2.0, 2.0, 0.0, 2.0]
    with pytest.raises(RuntimeError), record_mean_abs_inputs({"a": layer}):
        raise RuntimeError
    assert not layer._forward_pre_hooks


def subject_with(base, photos, folder, **changes):
    options = tiny_options(base, photos, folder, method="nora", **changes)
    return options, *tiny_subject(options)


def adapted_parts(options, subject, batches, folder) -> dict[str, nn.Module]:
    run = Run.create(folder / "mug-nora", "")
    state = train_state_of(task_of(subject, batches), "nora", run)
    step = state.accelerator.unwrap_model(state.model)
    return {"unet": step.unet, **dict(step.encoders)}


def test_recording_the_first_batch_does_not_advance_the_random_state(
    tiny_base, photo_folder, tmp_path
):
    _, _, batches = subject_with(tiny_base, photo_folder, tmp_path)
    _, _, undisturbed = subject_with(tiny_base, photo_folder, tmp_path)
    seen = first_batch(batches)
    for number in range(5):
        one, other = batches.next(), undisturbed.next()
        assert all(torch.equal(one[name], other[name]) for name in other)
        if not number:
            assert all(torch.equal(one[name], seen[name]) for name in other)


def test_all_three_parts_follow_the_first_training_batch(tiny_base, photo_folder, tmp_path):
    options, subject, batches = subject_with(tiny_base, photo_folder, tmp_path, outer="activation")
    state = {part: getattr(subject.pipe, part).state_dict() for part in PARTS}
    before = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in state.items()}
    batch = first_batch(batches)
    activations = record_activations(subject.pipe, subject.text, subject.process, PARTS, batch)
    subject = dataclasses.replace(subject, activations=activations)
    parts = adapted_parts(options, subject, batches, tmp_path)
    for part in PARTS:
        for key, tensor in getattr(subject.pipe, part).state_dict().items():
            assert torch.equal(tensor.cpu(), before[part][key])
    # Once more, by hand: the base's own layers spied on during a plain forward of that batch.
    _, other, _ = subject_with(tiny_base, photo_folder, tmp_path)
    names = {
        part: [name for name, m in parts[part].named_modules() if isinstance(m, NoraLinear)]
        for part in PARTS
    }
    spies = {part: spy_on(getattr(other.pipe, part), names[part]) for part in PARTS}
    noisy = other.process.levels[batch["timesteps"]].view(-1, 1, 1, 1)
    noisy = noisy.sqrt() * batch["latents"] + (1 - noisy).sqrt() * batch["noise"]
    with torch.no_grad():
        ids = other.text.ids
        first = other.pipe.text_encoder(ids["text_encoder"], output_hidden_states=True)
        second = other.pipe.text_encoder_2(ids["text_encoder_2"], output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        conditions = {
            "text_embeds": second.text_embeds.expand(len(noisy), -1),
            "time_ids": batch["time_ids"].float(),
        }
        text = hidden.expand(len(noisy), -1, -1)
        other.pipe.unet(noisy, batch["timesteps"], text, added_cond_kwargs=conditions)
    for part in PARTS:
        assert names[part]
        for name in names[part]:
            assert_follows(parts[part].get_submodule(name), spies[part][name].mean_abs_input())


def test_the_papers_start_doubles_the_top_directions_of_every_part(
    tiny_base, photo_folder, tmp_path
):
    options, subject, batches = subject_with(tiny_base, photo_folder, tmp_path, start="paper")
    for module in adapted_parts(options, subject, batches, tmp_path).values():
        layers = [m for m in module.modules() if isinstance(m, NoraLinear)]
        assert layers
        for layer in layers:
            up, root, down = reference.nora_factors(layer.base_layer.weight, 8, 2)
            expected = up[:, :2] * root**2 @ down[:2]
            delta = layer.get_delta_weight("default").double()
            torch.testing.assert_close(delta, expected, **TOLERANCE[torch.float32])


def losses_of(run) -> list:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [json.loads(line).get("loss") for line in lines]


@pytest.mark.slow
def test_noras_flags_reach_its_adapter_and_do_not_change_the_lora_twin(
    tiny_base, photo_folder, tmp_path, twins
):
    plain, _ = twins
    changes = {"outer": "activation", "start": "paper"}
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", changes)
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    assert "verified in a fresh pipeline" in outcome.out
    assert losses_of(tmp_path / "mug-lora") == losses_of(plain / "mug-lora")
    assert losses_of(tmp_path / "mug-nora") != losses_of(plain / "mug-nora")
    adapter = tmp_path / "mug-nora" / "adapter"
    saved = json.loads((adapter / "unet" / "adapter_config.json").read_text())
    assert saved["outer"] == "activation" and saved["start"] == "paper"
    assert open_adapter(adapter).card.method == "nora"


@pytest.mark.parametrize("change", [{"outer": "activation"}, {"start": "paper"}])
def test_noras_flags_are_refused_for_other_methods(tmp_path, change):
    (flag,) = change
    with pytest.raises(StudioError, match=f"--{flag}: .*--method lora"):
        tiny_options(tmp_path, tmp_path, tmp_path, method="lora", **change)
