"""The bars of the miniature model, and its card, which follows from what was measured."""

import json
from pathlib import Path

import pytest
import torch

from nora_studio.errors import StudioError
from nora_studio.mini import world
from nora_studio.mini.assets import embedded
from nora_studio.mini.pretrain import card, export
from nora_studio.mini.pretrain.progress import write_json
from nora_studio.scoring import mini_thresholds as thresholds


def test_prompts_describe_their_scenes() -> None:
    prompt_set = thresholds.sample_prompt_set(200, 1)
    assert len(prompt_set.prompts) == len(prompt_set.scenes) == 200
    plain = 0
    for i, prompt in enumerate(prompt_set.prompts):
        assert world.CLASSES[int(prompt_set.scenes.kind[i])] in prompt
        assert list(world.COLORS)[int(prompt_set.scenes.main_color[i])] in prompt
        pattern = world.PATTERNS[int(prompt_set.scenes.pattern[i])]
        plain += pattern == "plain"
        assert pattern in prompt or pattern == "plain"
        assert (" wearing " in prompt) == (prompt_set.scenes.accessory[i] > 0)
    assert 120 < plain < 180
    assert len(set(prompt_set.scenes.place.tolist())) == len(world.PLACES)


@pytest.mark.parametrize("attribute", ["kind", "pattern"])
def test_the_judge_counts_right_answers(attribute: str) -> None:
    """Who sees exactly what the true sentence says is always right; the next sentence, never."""
    judge = thresholds.Judge(embedded("mini-clip"), "cpu")
    scenes, options = thresholds.sample_prompt_set(70, 1).scenes, thresholds.OPTIONS[attribute]

    def seen(shift: int) -> torch.Tensor:
        truths = ((getattr(scenes, attribute) + shift) % len(options)).tolist()
        kinds = [world.CLASSES[kind] for kind in scenes.kind.tolist()]
        told = [
            thresholds.describe(attribute, options[i], kind)
            for i, kind in zip(truths, kinds, strict=True)
        ]
        return judge.text_features(told)

    assert judge.accuracies(scenes, seen(0))[attribute] == 1.0
    assert judge.accuracies(scenes, seen(1))[attribute] == 0.0


def test_an_attribute_without_images_has_no_figure() -> None:
    judge = thresholds.Judge(embedded("mini-clip"), "cpu")
    scenes = thresholds.sample_prompt_set(4, 1).scenes
    named = judge.accuracies(scenes, judge.text_features(["a red mug"] * 4))
    assert named["accessory"] is None and named["kind"] is not None


def test_the_card_follows_its_logs(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"training_log\.json and bars\.json"):
        card.write_card(tmp_path)
    folder = tmp_path / export.PIPELINE
    folder.mkdir()
    shipped = embedded(export.PIPELINE)
    log = json.loads((shipped / export.LOG).read_text(encoding="utf-8"))
    results = json.loads((shipped / export.RESULTS).read_text(encoding="utf-8"))
    [first] = log.pop("unet_before")
    log["denoiser"] |= {"is_continued": False}
    log["vae"] |= {"steps": 4321, "psnr_held_out": 31.23}
    log["encoders_run"] |= {"total_seconds": 720.0, "peak_gib": 61.5, "device": "a GPU"}
    log["encoders_run"]["settings"] |= {"pictures": "1200000", "clip_batch": "512"}
    log["unet_run"] |= {"total_seconds": 1440.0, "peak_gib": None}
    log["unet_run"]["settings"] |= {"stage": "all", "captions": "1"}
    results["drawn"] |= {"kind": 0.951, "main_color": 0.7}
    results["passed"] |= {"main_color": False}
    write_json(folder / export.LOG, log)
    write_json(folder / export.RESULTS, results)
    text = card.write_card(tmp_path).read_text(encoding="utf-8")
    for figure in (
        "| 4,321 |", "31.2 dB", "| 0.951 |", "Below the bar: main_color", "weak at patterns",
        "--stage encoders --pictures 1200000 --vae-seconds 185 --clip-seconds 235 --clip-batch 512",
        "On one a GPU the first command took 12.0 minutes, 61.5 GiB at most; ",
        "the UNet 12.0 minutes. ",
        "10,000 fewer save 1.8 GiB of the encoders stage and 0.5 GiB of the UNet",
    ):  # fmt: skip
        assert figure in text, figure
    results["ceiling"]["pattern"] = 0.9
    assert "weak at patterns" not in card.compose_card(log, results, tmp_path)

    first["denoiser"]["steps"], first["unet_run"]["total_seconds"] = 1234, 60.0
    log |= {"unet_before": [first], "denoiser": log["denoiser"] | {"is_continued": True}}
    log["unet_run"]["settings"]["unet_seconds"] = "77.0"
    text = card.compose_card(log, results, tmp_path)
    for figure in (
        "| UNet | 13,363,080 | 1,234 |", "| UNet, continued | 13,363,080 |",
        "--stage unet --init-unet assets --captions 1 --unet-seconds 77", "the UNet 25.0 minutes",
    ):  # fmt: skip
        assert figure in text, figure
