"""The trainer's options: what is recommended, what reaches which run, and what is refused."""

import dataclasses

import pytest
from support.places import TOP

from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions, PartOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options
from nora_studio.options.options_page import options_page
from nora_studio.options.part_settings import part_settings

NEEDED = ["--instance-dir", "photos/mug", "--prompt", "a photo of a [V] mug"]
PARTS = ("unet", "text_encoder", "text_encoder_2")


def options(*flags: str) -> DreamboothOptions:
    return with_recommended(parse_options([*NEEDED, *flags]))


def assert_one_line(refusal: pytest.ExceptionInfo, *words: str) -> None:
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "flags",
    [
        "--steps 0",
        "--steps -1",
        "--batch-size 0",
        "--log-every 0",
        "--checkpoint-every 0",
        "--keep-checkpoints 0",
        "--sample-steps 0",
        "--sample-every -1",
        "--warmup-steps -1",
        "--weight-decay -0.1",
        "--guidance -1",
        "--guidance nan",
        "--max-gradient-norm 0",
        "--dropout 1",
        "--dropout -0.1",
        "--snr-gamma 0",
        "--snr-gamma -5",
        "--noise-offset -1",
        "--prior-weight -1",
        "--hold-out -1",
        "--evaluate-every -1",
        "--resolution 60",
        "--resolution 513",
        "--method ,",
        "--method nora,nora",
        "--unet.rank 0",
        "--unet.alpha 0",
        "--text-encoder.learning-rate 0",
        "--text-encoder-2.learning-rate nan",
    ],
)
def test_a_value_out_of_range_is_one_clear_line(flags):
    with pytest.raises(StudioError) as refusal:
        resolved = options(*flags.split())
        part_settings(resolved, resolved.methods[0])
    flag, value = flags.split()
    assert_one_line(refusal, f"{flag}: expected", value.removeprefix("-"))


@pytest.mark.parametrize(
    "flags",
    ["--snr-gamma 5", "--snr-gamma 5 --weighting debiased", "--class-prompt mug",
     "--class-pictures 5", "--class-dir mugs"],
)  # fmt: skip
def test_an_option_of_what_is_off_is_refused(flags):
    with pytest.raises(StudioError) as refusal:
        options(*flags.split())
    assert_one_line(refusal, flags.split()[0])


def test_a_prompt_without_the_subject_is_refused():
    with pytest.raises(StudioError) as refusal:
        with_recommended(parse_options([*NEEDED[:3], "a photo of a mug"]))
    assert_one_line(refusal, "--prompt", "[V]", "'a photo of a mug'")
    with_recommended(parse_options([*NEEDED[:3], "a photo of a [v] mug"]))  # either case


def test_training_nothing_is_refused():
    off = ["--unet.no-train", "--text-encoder.no-train", "--text-encoder-2.no-train"]
    with pytest.raises(StudioError, match="switched off"):
        options(*off)
    resolved = options("--override", *(f"nora.{part}.train=false" for part in PARTS))
    with pytest.raises(StudioError, match="nora: every part is switched off"):
        part_settings(resolved, "nora")


def test_what_only_nora_has_is_refused_without_it():
    with pytest.raises(
        StudioError, match=r"--unet\.outer-rank: not an option .* lora, only of nora"
    ):
        part_settings(options("--method", "lora", "--unet.outer-rank", "8"), "lora")
    with pytest.raises(StudioError, match="--outer: not an option of --method lora, only of nora"):
        options("--method", "lora", "--outer", "randomized")
    twins = options("--method", "nora,lora", "--unet.outer-rank", "8")
    assert part_settings(twins, "nora")["unet"].outer_rank == 8
    assert part_settings(twins, "lora")["unet"].outer_rank is None


def test_the_paper_settings_are_recommended_for_sdxl_and_others_for_the_embedded():
    sdxl = options("--model", "some/sdxl")
    assert (sdxl.steps, sdxl.batch_size) == (500, 4)  # NoRA, section 4.3
    assert part_settings(sdxl, "nora")["unet"].learning_rate == 1e-4
    assert part_settings(sdxl, "nora") != part_settings(options(), "nora")
    own = options("--steps", "3", "--batch-size", "1", "--unet.learning-rate", "0.5")
    assert (own.steps, own.batch_size) == (3, 1)
    assert part_settings(own, "nora")["unet"].learning_rate == 0.5


def test_part_options_reach_just_their_part():
    plain, changed = options(), options("--text-encoder.rank", "3", "--unet.no-train")
    settings = part_settings(changed, "nora")
    assert list(settings) == ["text_encoder", "text_encoder_2"]
    expected = part_settings(plain, "nora")
    assert settings["text_encoder"] == dataclasses.replace(expected["text_encoder"], rank=3)
    assert settings["text_encoder_2"] == expected["text_encoder_2"]


@pytest.mark.parametrize(
    ("entry", "option", "value"),
    [
        ("lora.unet.rank=16", "rank", 16),
        ("lora.unet.alpha=2", "alpha", 2.0),
        ("lora.unet.learning-rate=3e-4", "learning_rate", 3e-4),
    ],
)
def test_an_override_reaches_just_its_twin(entry, option, value):
    plain = options("--method", "nora,lora")
    changed = options("--method", "nora,lora", "--override", entry)
    assert part_settings(changed, "nora") == part_settings(plain, "nora")
    before, after = part_settings(plain, "lora"), part_settings(changed, "lora")
    assert after == before | {"unet": dataclasses.replace(before["unet"], **{option: value})}


def test_an_override_can_switch_off_one_twins_part():
    resolved = options("--method", "nora,lora", "--override", "lora.text-encoder.train=false")
    assert set(part_settings(resolved, "lora")) == {"unet", "text_encoder_2"}
    assert set(part_settings(resolved, "nora")) == set(PARTS)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("lora.unet.rank", ("METHOD.PART.OPTION=VALUE",)),
        ("unet.rank=4", ("METHOD.PART.OPTION=VALUE",)),
        ("lroa.unet.rank=4", ("'lroa'", "'lora'")),
        ("lora.unett.rank=4", ("'unett'", "'unet'")),
        ("lora.unet.rnak=4", ("'rnak'", "'rank'")),
        ("lora.unet.rank=four", ("'four'",)),
        ("lora.unet.rank=4.5", ("expected int", "'4.5'")),
        ("lora.unet.rank=true", ("expected int",)),
        ("lora.unet.train=1", ("expected bool",)),
        ("lora.unet.rank=0", ("--unet.rank", "at least 1")),
    ],
)
def test_a_mistaken_override_is_one_line(entry, words):
    with pytest.raises(StudioError) as refusal:
        part_settings(options("--method", "nora,lora", "--override", entry), "lora")
    assert_one_line(refusal, *words)


def test_the_page_of_options_is_up_to_date_and_explains_each():
    page = options_page()
    assert (TOP / "assets" / "options.md").read_text("utf-8") == page, (
        "python -m nora_studio.options.options_page > assets/options.md"
    )
    for field in dataclasses.fields(DreamboothOptions):
        if not isinstance(field.default, PartOptions):
            start = "no-" if field.default is True else ""
            assert f"| `--{start}{field.name.replace('_', '-')}` |" in page, field.name
    for field in dataclasses.fields(PartOptions):
        assert f"{field.name.replace('_', '-')}` |" in page, field.name
    for line in page.splitlines():
        if line.startswith("| `--"):
            assert len(line.split(" | ")[-1]) > 10, f"no help: {line}"


def test_help_lists_every_flag(capsys):
    with pytest.raises(SystemExit) as ending:
        parse_options(["--help"])
    assert ending.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(DreamboothOptions):
        assert f"--{field.name.replace('_', '-')}" in shown, field.name
    for field in dataclasses.fields(PartOptions):
        assert field.name.replace("_", "-") in shown, field.name


def test_options_cannot_be_changed_after_parsing():
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().steps = 3  # pyright: ignore[reportAttributeAccessIssue]
