"""The few-shot trainer: twins, resumed to the bit, tested as saved, and refused in one line."""

import json
import os
import signal
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from support.fewshot import coloured_folder, flags_for, train
from support.own_clip import open_clips_own
from support.tiny import tiny_clip

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.runs.runs import Run
from nora_studio.tasks.fewshot.datasets import find_dataset
from nora_studio.tasks.fewshot.methods import METHODS

EVERY = tuple(name for name in METHODS if name != "zero-shot")
CLOCKS = ("seconds_per_step", "images_per_second", "memory_gib")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip") / "base")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return coloured_folder(tmp_path_factory.mktemp("colours") / "colours")


@pytest.fixture(scope="module")
def whole(base, pictures, tmp_path_factory):
    """Every method at once, trained without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    methods = ",".join(METHODS)
    changes = {"vision.rank": None, "text.rank": None, "steps": 30, "merged": False,
               "checkpoint_every": 10}  # fmt: skip
    outcome = train(*flags_for(base, pictures, folder, method=methods, **changes))
    assert outcome.status == 0, outcome.err
    return folder


def scores(run) -> dict:
    return json.loads((run / "scores.json").read_text())


def losses(run) -> list[float]:
    return [row["loss"] for row in Run(run).read_log()]


def files(run) -> dict[str, bytes]:
    """Every byte of a run that is not a clock's."""
    found = {}
    for file in sorted(run.rglob("*")):
        if file.is_file() and file.name not in ("status.json", "scores.json", "config.toml"):
            found[str(file.relative_to(run))] = file.read_bytes()
    rows = [{k: v for k, v in row.items() if k not in CLOCKS} for row in Run(run).read_log()]
    return found | {"log.jsonl": json.dumps(rows).encode()}


def test_every_method_trains_beside_the_others_and_learns(whole):
    zero = scores(whole / "tiny-zero-shot")
    assert zero["accuracy"] == zero["zero_shot"] and zero["parameters"] == 0
    for name in EVERY:
        found = scores(whole / f"tiny-{name}")
        assert found["method"] == name and found["test_pictures"] == 12 and found["classes"] == 3
        assert found["zero_shot"] == zero["accuracy"]
        curve = losses(whole / f"tiny-{name}")
        assert curve[0] == pytest.approx(losses(whole / "tiny-nora")[0], rel=0.2)
        # LoRA-FA's optimizer and VeRA's vectors are slow; what falls is a loss over all batches.
        assert min(curve[15:]) < curve[0], name
    assert scores(whole / "tiny-clip-lora")["accuracy"] > max(0.5, zero["accuracy"])


def test_the_counts_of_trained_parameters_are_the_formulas(whole):
    # Two encoders of one block each: q, k, v of 32 x 32 and of 16 x 16; CLIP-LoRA's rank is 2.
    sides = [32, 32, 32, 16, 16, 16]
    assert scores(whole / "tiny-clip-lora")["parameters"] == sum(2 * 2 * side for side in sides)
    assert scores(whole / "tiny-lora-fa")["parameters"] == sum(2 * side for side in sides)
    assert scores(whole / "tiny-nora")["parameters"] == 6 * 2 * 8 * 8
    assert scores(whole / "tiny-clip-adapter")["parameters"] == 2 * 16 * 4


def test_the_run_keeps_its_shots_and_a_card_that_names_the_task(whole, pictures):
    drawn = json.loads((whole / "tiny-nora" / "shots.json").read_text())
    assert drawn["classes"] == ["green", "navy blue", "red"]
    assert drawn["template"] == "a photo of a {}."
    assert [label for _, label in drawn["train"]] == [0] * 4 + [1] * 4 + [2] * 4
    assert len(drawn["val"]) == 3 * 2 or len(drawn["val"]) == 3 * 4
    assert all((pictures / name).is_file() for name, _ in drawn["train"] + drawn["val"])
    card = open_adapter(whole / "tiny-nora" / "adapter").card
    assert (card.task, card.method, card.steps) == ("clip few-shot", "nora", 30)
    assert set(card.fingerprints) == {"vision", "text"} and card.resolution == 32
    assert (whole / "tiny-nora" / "adapter" / "text" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_methods_trained_one_after_the_other_are_the_twins_to_the_bit(base, pictures, tmp_path):
    for name, twins in (("together", True), ("alone", False)):
        flags = flags_for(base, pictures, tmp_path / name, twins=twins)
        assert train(*flags).status == 0
    for method in ("nora", "clip-lora"):
        one, other = (tmp_path / name / f"tiny-{method}" for name in ("together", "alone"))
        assert losses(one) == losses(other)


def test_a_stopped_run_goes_on_to_the_same_bytes(base, pictures, tmp_path, monkeypatch):
    methods = "nora,adalora,dylora"
    assert train(*flags_for(base, pictures, tmp_path / "whole", method=methods)).status == 0
    rename, saved = Path.rename, []

    def stop_at_the_second(self, target):
        rename(self, target)
        if Path(target).name == "step-000002":
            saved.append(target)
            if len(saved) == methods.count(",") + 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Path, "rename", stop_at_the_second)
    flags = flags_for(base, pictures, tmp_path / "stopped", method=methods)
    outcome = train(*flags)
    assert outcome.status == 128 + signal.SIGTERM and "--resume" in outcome.out
    assert Run(tmp_path / "stopped" / "tiny-nora").state == "stopped"
    monkeypatch.undo()
    assert train(*flags, "--resume").status == 0
    for method in methods.split(","):
        one, other = (tmp_path / name / f"tiny-{method}" for name in ("whole", "stopped"))
        assert files(one) == files(other)
        assert scores(one)["accuracy"] == scores(other)["accuracy"]


def own_features(base: Path, pictures: Path, run: Path) -> tuple[torch.Tensor, ...]:
    """Of a run's shots and classes, by open_clip's own model and preprocessing, in float64.

    Returns:
        (shots, width) and (classes, width), unit vectors, (shots,) labels, and the model's scale.
    """
    model, preprocess = open_clips_own(f"local-dir:{base}")
    model.double()
    drawn = json.loads((run / "shots.json").read_text())
    images = [preprocess(Image.open(pictures / file)) for file, _ in drawn["train"]]
    ids = open_clip.get_tokenizer(f"local-dir:{base}")(
        [f"a photo of a {one}." for one in drawn["classes"]]
    )
    with torch.no_grad():
        seen = torch.nn.functional.normalize(model.encode_image(torch.stack(images).double()))
        said = torch.nn.functional.normalize(model.encode_text(ids))
    labels = torch.tensor([label for _, label in drawn["train"]])
    return seen, said, labels, model.logit_scale.exp()


def test_the_loss_of_the_first_step_is_cross_entropy_at_a_hundred(base, tmp_path):
    """In float64, without augmentation."""
    # As large as the model's own: no resizing, which rounds to bytes in PIL.
    pictures = coloured_folder(tmp_path / "small", size=(32, 32))
    for name, scale in (("protocol", 100.0), ("model", None)):
        flags = flags_for(
            base, pictures, tmp_path / name, augment=False, logit_scale=name, steps=1,
            method="nora", batch_size=12,
        )  # fmt: skip
        assert train(*flags).status == 0
        run = tmp_path / name / "tiny-nora"
        seen, said, labels, models_own = own_features(base, pictures, run)
        scale = scale or models_own.item()
        expected = torch.nn.functional.cross_entropy(scale * seen @ said.T, labels).item()
        assert losses(run)[0] == pytest.approx(expected, rel=1e-5)


def test_clip_adapters_first_loss_is_of_features_blended_by_a_fifth(base, tmp_path):
    """f becomes 0.8 f + 0.2 relu(W2 relu(W1 f)), a unit vector again."""
    pictures = coloured_folder(tmp_path / "small", size=(32, 32))
    flags = flags_for(
        base, pictures, tmp_path, augment=False, steps=1, method="clip-adapter", batch_size=12,
        **{"text.rank": None, "text.learning_rate": None},
    )  # fmt: skip
    assert train(*flags, "--seed", "5").status == 0
    run = tmp_path / "tiny-clip-adapter"
    seen, said, labels, _ = own_features(base, pictures, run)
    width = seen.shape[1]
    torch.manual_seed(5)
    squeeze = torch.nn.Linear(width, width // 2, bias=False).double()
    widen = torch.nn.Linear(width // 2, width, bias=False).double()
    with torch.no_grad():
        blended = 0.8 * seen + 0.2 * widen(squeeze(seen).relu()).relu()
        logits = 100 * torch.nn.functional.normalize(blended) @ said.T
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert losses(run)[0] == pytest.approx(expected, rel=1e-5)
    plain = torch.nn.functional.cross_entropy(100 * seen @ said.T, labels).item()
    assert losses(run)[0] != pytest.approx(plain, rel=1e-3)


@pytest.mark.slow
def test_bfloat16_learns_from_the_same_loss(base, pictures, tmp_path):
    for precision in ("fp32", "bf16"):
        flags = flags_for(base, pictures, tmp_path / precision, precision=precision, dropout=0)
        assert train(*flags).status == 0
    exact, rounded = (losses(tmp_path / name / "tiny-nora") for name in ("fp32", "bf16"))
    assert exact[0] != rounded[0]
    assert exact[0] == pytest.approx(rounded[0], rel=0.05)
    assert scores(tmp_path / "bf16" / "tiny-nora")["precision"] == "bfloat16"


@pytest.mark.slow
def test_a_frozen_encoder_is_asked_once(base, pictures, tmp_path, monkeypatch):
    asked: list[str] = []
    for name in ("encode_image", "encode_text"):
        usual = getattr(open_clip.CLIP, name)

        def counted(*arguments, usual=usual, name=name):
            asked.append(name)
            return usual(*arguments)

        monkeypatch.setattr(open_clip.CLIP, name, counted)

    def times(name: str, **changes: object) -> int:
        asked.clear()
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        assert train(*flags_for(base, pictures, folder, method="nora", **changes)).status == 0
        return asked.count(name)

    shots = 2  # Batches of them.
    tests = 4 + 1  # Before and after, validation and test; and the file's proof.
    switched = {"text.train": False, "text.rank": None, "text.outer_rank": None}
    assert times("encode_text") == 1 + 6 + tests - 2  # Frozen, it is asked once.
    assert times("encode_text", **switched) == 1
    switched = {"vision.train": False, "vision.rank": None, "vision.outer_rank": None}
    assert times("encode_image", augment=False, **switched) == shots + tests
    assert times("encode_image", augment=True, **switched) == 6 + tests


def test_a_merged_model_is_open_clips_own_and_as_good(base, pictures, tmp_path):
    flags = flags_for(base, pictures, tmp_path, method="nora", merged=True, steps=12)
    assert train(*flags).status == 0
    run = tmp_path / "tiny-nora"
    name = f"local-dir:{run / 'merged'}"
    model, preprocess = open_clips_own(name)
    model.eval()
    dataset = find_dataset(str(pictures), None)
    ids = open_clip.get_tokenizer(name)([f"a photo of a {one}." for one in dataset.classes])
    pixels = torch.stack([preprocess(one.open()) for one, _ in dataset.splits["test"]])
    with torch.no_grad():
        image, text, _ = model(pixels, ids)
    right = (image @ text.T).argmax(-1) == torch.tensor([n for _, n in dataset.splits["test"]])
    assert right.double().mean().item() == pytest.approx(scores(run)["accuracy"])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"method": "prompt-tuning"}, "--method: expected one of zero-shot, clip-lora"),
        ({"shots": 50}, "--shots: expected at least"),
        ({"template": "a photo"}, "--template: expected {} for the class"),
        ({"steps_per_shot": 3}, "--steps-per-shot: --steps already sets the number"),
        ({"dataset": "cifar"}, "--dataset: expected embedded"),
        ({"model": "no-such-clip"}, "--model: expected 'embedded'"),
        ({"vision.rank": 33}, "rank must be 1-32"),
        (
            {"merged": True, "model": "hf-hub:a/b"},
            "--merged needs the model's configuration",
        ),
        ({"final_rate": 1e-5, "schedule": "linear"}, "--final-rate: expected --schedule cosine"),
        ({"accumulate": 4}, "--accumulate: expected a divisor of the batch of 6"),
        ({"override": ("nora.eye.rank=2",)}, "'eye' is not one of vision, text"),
        ({"optimizer": "lion", "method": "clip-adapter"}, "--optimizer lion"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_a_bad_option_is_one_line_and_status_2(base, pictures, tmp_path, changes, words):
    outcome = train(*flags_for(base, pictures, tmp_path, **changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1 and words in outcome.errors[0]


def test_other_shots_are_no_run_to_go_on_with(base, pictures, tmp_path):
    flags = flags_for(base, pictures, tmp_path, method="nora")
    assert train(*flags).status == 0
    again = train(*flags)
    assert again.status == 2 and "is a run already" in again.errors[0]
    outcome = train(*flags_for(base, pictures, tmp_path, method="nora", seed=1), "--resume")
    assert outcome.status == 2 and "seed" in outcome.errors[0]
    assert "images_per_second" in Run(tmp_path / "tiny-nora").read_log()[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_embedded_model_learns_things_it_has_never_seen(tmp_path):
    flags = ["--shots", "4", "--steps", "100", "--batch-size", "12", "--test-limit", "120"]
    outcome = train(*flags, "--output-dir", str(tmp_path), "--name", "new", "--method", "nora")
    assert outcome.status == 0, outcome.err
    found = scores(tmp_path / "new-nora")
    assert found["chance"] < found["zero_shot"] < found["accuracy"] - 0.05
