"""What the tasks share: options of any kind, the cosine's end, cards that name their task."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from nora_studio.adapters.files.card import AdapterCard, card_text, parse_card
from nora_studio.errors import StudioError
from nora_studio.options.options_file import defaults_as_toml, parse, to_toml
from nora_studio.options.options_page import helps, own_fields
from nora_studio.runs.runs import Run
from nora_studio.tasks.fewshot.methods import METHODS
from nora_studio.tasks.fewshot.options import FewshotOptions
from nora_studio.tasks.fewshot.recommended import final_rate_of, recommended, with_recommended
from nora_studio.trainer.schedules import learning_rate_schedule
from nora_studio.trainer.step import rows_of

KNOWN = {name: method.tuner for name, method in METHODS.items()}


def optimizer() -> torch.optim.Optimizer:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (2e-4, 3.2e-3)
    ]
    return torch.optim.AdamW(groups)


def test_a_cosine_ends_where_torchs_own_does():
    ours, theirs = optimizer(), optimizer()
    schedule = learning_rate_schedule("cosine", ours, 40, 0, final_rate=1e-6)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, 40, eta_min=1e-6)
    for _ in range(40):
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert one["lr"] == pytest.approx(other["lr"], rel=1e-9)
        ours.step()
        theirs.step()
        schedule.step()
        reference.step()
    assert [group["lr"] for group in ours.param_groups] == pytest.approx([1e-6, 1e-6])


def test_warm_up_comes_before_the_cosine():
    own = optimizer()
    schedule = learning_rate_schedule("cosine", own, 20, 4, final_rate=1e-5)
    rates = []
    for _ in range(21):
        rates.append(own.param_groups[1]["lr"] / 3.2e-3)
        own.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert rates[-1] == pytest.approx(1e-5 / 3.2e-3)


def test_options_go_through_a_file_and_back(tmp_path):
    flags = ["--shots", "4", "--vision.rank", "3", "--no-augment", "--method", "nora,lora+"]
    options = with_recommended(parse(FewshotOptions, flags), KNOWN)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(options))
    assert parse(FewshotOptions, ["--config", str(file)]) == options
    assert (options.steps, options.batch_size, options.schedule) == (40 * 4, 32, "cosine")
    assert final_rate_of(options) == 1e-6
    file.write_text("shotz = 3\n")
    with pytest.raises(StudioError, match=r"unknown option 'shotz'\. Did you mean 'shots'"):
        parse(FewshotOptions, ["--config", str(file)])


def test_the_protocol_stands_where_nothing_else_is_asked_for():
    options = with_recommended(
        parse(FewshotOptions, ["--model", "ViT-B-16:openai", "--method", "clip-lora"]), KNOWN
    )
    assert (options.steps, options.batch_size, options.weight_decay) == (8000, 32, 0.01)
    assert (options.dropout, options.warmup_steps, options.targets) == (0.25, 0, "qkv")
    assert options.max_gradient_norm == float("inf")
    settings = METHODS["clip-lora"].part_settings(options, "clip-lora")
    assert set(settings) == {"vision", "text"}
    for values in settings.values():
        assert (values.rank, values.alpha, values.learning_rate) == (2, 1.0, 2e-4)
    assert METHODS["clip-lora"].tuner == "rslora"  # alpha / sqrt(rank)
    assert recommended("nora", "ViT-B-16:openai").rates == (5e-5, 1e-4, 2e-5)


@pytest.mark.parametrize("model", ["ViT-B-16:openai", "embedded"])
@pytest.mark.parametrize("kin", ["lora+", "adalora", "dylora", "lora-fa"])
def test_methods_that_divide_by_the_rank_have_clip_loras_scale(kin, model):
    its, own = recommended("clip-lora", model), recommended(kin, model)
    assert own.alpha is not None and its.alpha is not None
    assert own.alpha / own.rank == pytest.approx(its.alpha / its.rank**0.5)


def test_a_switch_that_is_off_trains_one_encoder():
    options = with_recommended(parse(FewshotOptions, ["--text.no-train"]), KNOWN)
    assert set(METHODS["nora"].part_settings(options, "nora")) == {"vision"}
    options = with_recommended(
        parse(FewshotOptions, ["--text.no-train", "--vision.no-train"]), KNOWN
    )
    with pytest.raises(StudioError, match="every part is switched off"):
        METHODS["nora"].check(options, "nora")


def test_every_option_has_its_line():
    for kind in FewshotOptions.__mro__[:-1]:
        words = helps(kind)
        for field in own_fields(kind):
            assert words[field.name].endswith("."), f"{kind.__name__}.{field.name}"
    assert "instance_dir" not in defaults_as_toml(FewshotOptions)
    assert "warmup_steps = 0" in defaults_as_toml(FewshotOptions)


def test_a_card_names_its_task_where_that_is_not_a_subject_of_sdxl():
    card = AdapterCard("nora", "m", {"unet": [0.1]}, "sks", "[V]", 32, 1, 0, 9, "1")
    assert "task" not in json.loads(card_text(card))
    other = dataclasses.replace(card, task="clip few-shot")
    assert parse_card(card_text(other), Path("here")) == other
    assert parse_card(card_text(card), Path("here")) == card


def test_a_batchs_rows_are_counted_whatever_it_holds():
    assert rows_of({"labels": torch.zeros(5), "boxes": torch.zeros(5, 4)}) == 5


def test_a_run_tells_what_of_its_data_changed(tmp_path):
    run = Run.create(tmp_path / "run", "steps = 3\n", {"train.json": "1"})
    with pytest.raises(StudioError, match=r"expected the same files .* train\.json has changed"):
        run.check_photos({"train.json": "2"}, "files")
