"""Captured steps: the same training as eager ones, for every option, or one line that says why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from support.trainer import only_unet, run_trainer, tiny_arguments
from torch import Tensor, nn

from nora_studio.adapters.methods.table import METHODS
from nora_studio.runs.runs import Run
from nora_studio.trainer.capture import MOST_GRAPHS, CaptureError, StepGraphs

gpu = pytest.mark.gpu
PLAIN = {"sample-every": 0, "log-every": 1, "checkpoint-every": 100, "precision": "fp32"}
OPTIONS: dict[str, dict] = {
    "text encoders": {},
    "accumulate": {"accumulate": 2},
    "prior": {"prior-weight": 1.0, "class-prompt": "a photo of a mug", "class-pictures": 2},
    "average": {"ema": 0.9},
    "caption dropout": {"caption-dropout": 0.5},
    "new tokens": {"new-tokens": 2, "trigger": None},
    "noise offset": {"noise-offset": 0.1},
    "min-snr": {"weighting": "min-snr"},
    "checkpointing": {"gradient-checkpointing": True},
    "frozen encoders": {"text-encoder-steps": 3},
    "no decay": {"weight-decay": 0.0},
    "decay": {"weight-decay": 0.1},
    "buckets": {"buckets": True},
    "float16": {"precision": "fp16"},
    "adafactor": {"optimizer": "adafactor"},
    "prodigy": {"optimizer": "prodigy", "start": "paper"},  # Its first steps show in no picture.
    "schedule-free": {"optimizer": "schedule-free"},
}
EAGER = {"dylora", "vblora"}


def trained(folder: Path, base: Path, photos: Path, method: str, changes: dict) -> tuple:
    """Train in a folder; return the log's losses, the adapter's tensors and what was said."""
    flags = PLAIN | changes
    arguments = tiny_arguments(base, photos, folder, method, flags)
    outcome = run_trainer(*arguments)
    assert outcome.status == 0, outcome.err
    (run,) = (Run(one) for one in folder.iterdir() if one.name.startswith("mug-"))
    losses = [row["loss"] for row in run.read_log() if "loss" in row]
    tensors = {
        f"{file.parent.name}.{name}": tensor
        for file in run.adapter.rglob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    return losses, tensors, outcome.out + outcome.err


def assert_same_training(tmp_path, base, photos, method, changes, steps: int | None = None) -> str:
    """Compare an eager with a captured training; return what the captured one said.

    Args:
        steps: How many losses to compare; None: all, and the weights. The large rates of so short
            a run turn a rounding into another sign of a step where a gradient is nearly zero, as
            LoRA's first one is.
    """
    losses, tensors, _ = trained(
        tmp_path / "eager", base, photos, method, changes | {"no-capture": True}
    )
    others, captured, said = trained(tmp_path / "captured", base, photos, method, changes)
    assert others[:steps] == pytest.approx(losses[:steps], rel=2e-3)
    assert captured.keys() == tensors.keys()
    for name, tensor in tensors.items() if steps is None else ():
        torch.testing.assert_close(captured[name], tensor, rtol=5e-2, atol=5e-3, msg=name)
    return said


@gpu
@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_run_trains_as_an_eager_one(tiny_base, photo_folder, tmp_path, name):
    said = assert_same_training(tmp_path, tiny_base, photo_folder, "nora", OPTIONS[name])
    assert "not captured" not in said


@gpu
def test_masks_are_captured(tiny_base, photo_folder, tmp_path):
    photos = tmp_path / "mug"
    shutil.copytree(photo_folder, photos)
    for photo in [file for file in photos.iterdir() if file.suffix in (".jpg", ".png")]:
        with Image.open(photo) as picture:
            width, height = ImageOps.exif_transpose(picture).size
            mask = Image.new("L", (width, height), 40)
            mask.paste(255, (0, 0, width // 2, height))
        mask.save(photo.with_suffix(".mask.png"))
    said = assert_same_training(tmp_path, tiny_base, photos, "nora", {})
    assert "not captured" not in said


@gpu
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_captured_or_says_why_not(tiny_base, photo_folder, tmp_path, method):
    sizes = {f"{part}.outer-rank": 8 for part in ("unet",)} if method == "nora" else {}
    changes = only_unet({"unet.rank": 4 if method != "oft" else 8} | sizes)
    said = assert_same_training(tmp_path, tiny_base, photo_folder, method, changes, steps=3)
    assert ("not captured" in said) == (method in EAGER)


@gpu
@pytest.mark.parametrize(
    "changes",
    [{"dropout": 0.3, "gradient-checkpointing": True}],
    ids=["dropout with checkpointing"],
)
def test_options_that_keep_a_run_eager_are_named(tiny_base, photo_folder, tmp_path, changes):
    _, _, said = trained(tmp_path, tiny_base, photo_folder, "nora", only_unet(changes))
    assert "nora: steps are not captured: checkpointing has to sample" in said


@gpu
@pytest.mark.parametrize("method", ["nora", "lora"])
def test_in_half_precision_it_is_as_near_to_float32_as_an_eager_run(
    tiny_base, photo_folder, tmp_path, method
):
    def run(name: str, **changes) -> tuple[list[float], dict[str, Tensor]]:
        given = {"steps": 50, "unet.learning-rate": 0.005} | {
            key.replace("_", "-"): value for key, value in changes.items()
        }
        losses, tensors, said = trained(
            tmp_path / name, tiny_base, photo_folder, method, only_unet(given)
        )
        assert "not captured" not in said
        return losses, tensors

    exact, weights = run("exact", precision="fp32", no_capture=True)
    eager, eager_weights = run("eager", precision="bf16", no_capture=True)
    captured, captured_weights = run("captured", precision="bf16")

    def off(losses: list[float]) -> float:
        return max(abs(one - other) for one, other in zip(losses, exact, strict=True))

    def away(found: dict[str, Tensor]) -> float:
        gaps = [(found[n].float() - w.float()).square().sum() for n, w in weights.items()]
        return float(torch.stack(gaps).sum().sqrt())

    assert off(captured) <= 1.05 * off(eager) + 1e-5
    assert away(captured_weights) <= 1.05 * away(eager_weights) + 1e-5


@gpu
def test_a_resumed_captured_run_equals_an_uninterrupted_one(tiny_base, photo_folder, tmp_path):
    flags = only_unet(PLAIN | {"dropout": 0.2, "precision": None, "schedule": "constant"})
    whole = tiny_arguments(tiny_base, photo_folder, tmp_path / "whole", "nora", flags)
    assert run_trainer(*whole).status == 0
    halves = tiny_arguments(
        tiny_base, photo_folder, tmp_path / "halves", "nora", flags | {"steps": 3}
    )
    assert run_trainer(*halves).status == 0
    rest = tiny_arguments(tiny_base, photo_folder, tmp_path / "halves", "nora", flags)
    more = run_trainer(*rest, "--resume")
    assert more.status == 0, more.err
    logs = [
        [row["loss"] for row in Run(tmp_path / name / "mug-nora").read_log() if "loss" in row]
        for name in ("whole", "halves")
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    card = json.loads((tmp_path / "halves" / "mug-nora" / "adapter" / "card.json").read_text())
    assert card["steps"] == 6


def graphs_of(compute) -> tuple[StepGraphs, nn.Linear]:
    model = nn.Linear(8, 8, device="cuda")
    graphs = StepGraphs(
        lambda batch: compute(model, batch),
        lambda: model.zero_grad(set_to_none=False),
        model,
        list(model.parameters()),
        torch.cuda.graph_pool_handle(),
    )
    return graphs, model


def plain(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    loss = model(batch["x"]).square().mean()
    loss.backward()
    return loss.detach()


@gpu
def test_a_graph_for_each_shape_up_to_a_number():
    graphs, model = graphs_of(plain)
    for size in range(1, MOST_GRAPHS + 2):
        batch = {"x": torch.randn(size, 8)}
        loss = graphs.gradients(batch)
        if size > MOST_GRAPHS:
            assert loss is None
            break
        assert loss is not None
        for _ in range(2):
            batch = {"x": torch.randn(size, 8)}
            loss = graphs.gradients(batch)
            expected = model(batch["x"].cuda()).square().mean()
            assert loss is not None
            torch.testing.assert_close(loss, expected.detach())
            (wanted,) = torch.autograd.grad(expected, [model.weight])
            torch.testing.assert_close(model.weight.grad, wanted)
            del expected  # Its graph would belong to the next capture, too.
    assert len(graphs.graphs) == MOST_GRAPHS


@gpu
def test_a_step_that_waits_for_the_device_cannot_be_captured_and_trains_on():
    def waits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        loss = plain(model, batch)
        return loss * (1 if loss.item() > 0 else 2)

    graphs, model = graphs_of(waits)
    with pytest.raises(CaptureError):
        graphs.gradients({"x": torch.randn(3, 8)})
    model.zero_grad()
    torch.rand(3, device="cuda")  # The generator works again.
    assert plain(model, {"x": torch.randn(3, 8, device="cuda")}) > 0


@gpu
def test_a_step_that_changes_between_calls_is_found_out():
    calls: list[int] = []

    def changes(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        calls.append(1)
        loss = model(batch["x"]).square().mean() * len(calls)
        loss.backward()
        return loss.detach()

    graphs, _ = graphs_of(changes)
    with pytest.raises(CaptureError, match="replay"):
        graphs.gradients({"x": torch.randn(3, 8)})


@gpu
def test_weights_that_have_moved_are_captured_again():
    graphs, model = graphs_of(plain)
    batch = {"x": torch.randn(3, 8)}
    graphs.gradients(batch)
    with torch.no_grad():
        model.weight.data = model.weight.data * 2
    loss = graphs.gradients(batch)
    assert loss is not None
    torch.testing.assert_close(loss, model(batch["x"].cuda()).square().mean().detach())
