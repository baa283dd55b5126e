"""Flags and TOML files: the same options either way, and every mistake told in one line."""

import dataclasses
from pathlib import Path

import pytest
import tomli_w

from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options, to_toml

NEEDED = ["--instance-dir", "photos/mug", "--prompt", "a photo of a [V] mug"]

# One value for every option, each another than its default.
FLAG_TEXT = """
    --instance-dir photos/cup --prompt [V] --model some/model --method lora,nora,lora+
    --output-dir out
    --name cup --trigger zqp --resolution 512 --steps 7 --batch-size 3 --seed 5 --precision bf16
    --base-bits 8 --attention math --preflight --preflight-out need.json --fit 9
    --gradient-checkpointing --targets attention+feedforward --dropout 0.25 --outer randomized
    --start paper --lora-plus-ratio 4
    --unet.rank 3 --unet.outer-rank 9 --unet.alpha 1.5 --unet.learning-rate 0.25
    --text-encoder.no-train --text-encoder-2.rank 4 --override lora.unet.rank=16
    --schedule cosine-restarts --schedule-cycles 3 --schedule-power 3
    --warmup-steps 2 --weight-decay 0.5 --max-gradient-norm 0.5 --no-capture --snr-gamma 5
    --ema 0.9 --optimizer prodigy --accumulate 3 --text-encoder-steps 4
    --no-captions --caption-dropout 0.1 --buckets --crop random --crops 3 --flip 0.5
    --masks alpha --mask-floor 0.3 --no-cache --max-timestep 700
    --new-tokens 2 --token-rate 0.01 --token-init cup
    --weighting min-snr --noise-offset 0.1 --prior-weight 0.5 --class-prompt cup
    --class-pictures 6 --class-dir cups --hold-out 1 --evaluate-every 2
    --early-stop overfit --patience 2 --no-keep-best --final last --score-samples --clip some/clip
    --tracker wandb
    --sample-prompts snow sand --sample-every 9 --sample-seed 3 --sample-steps 4 --guidance 2
    --log-every 8 --checkpoint-every 6 --keep-checkpoints 5 --resume
"""
FLAGS = FLAG_TEXT.split()
# No schedule reads all of them.
FITTING = FLAG_TEXT.replace("--schedule-power 3", "").split()
FILE_TEXT = """
instance_dir = "photos/cup"
prompt = "[V]"
captions = false
new_tokens = 2
token_rate = 0.01
token_init = "cup"
caption_dropout = 0.1
buckets = true
crop = "random"
crops = 3
flip = 0.5
masks = "alpha"
mask_floor = 0.3
cache = false
model = "some/model"
method = "lora,nora,lora+"
output_dir = "out"
name = "cup"
trigger = "zqp"
resolution = 512
steps = 7
batch_size = 3
seed = 5
precision = "bf16"
gradient_checkpointing = true
base_bits = 8
attention = "math"
preflight = true
preflight_out = "need.json"
fit = 9
targets = "attention+feedforward"
dropout = 0.25
lora_plus_ratio = 4
outer = "randomized"
start = "paper"
override = ["lora.unet.rank=16"]
schedule = "cosine-restarts"
schedule_cycles = 3
schedule_power = 3
warmup_steps = 2
weight_decay = 0.5
max_gradient_norm = 0.5
capture = false
ema = 0.9
optimizer = "prodigy"
accumulate = 3
text_encoder_steps = 4
snr_gamma = 5
weighting = "min-snr"
noise_offset = 0.1
prior_weight = 0.5
class_prompt = "cup"
class_pictures = 6
class_dir = "cups"
hold_out = 1
evaluate_every = 2
early_stop = "overfit"
patience = 2
keep_best = false
final = "last"
score_samples = true
clip = "some/clip"
tracker = "wandb"
max_timestep = 700
sample_prompts = ["snow", "sand"]
sample_every = 9
sample_seed = 3
sample_steps = 4
guidance = 2
log_every = 8
checkpoint_every = 6
keep_checkpoints = 5
resume = true

[unet]
rank = 3
outer_rank = 9
alpha = 1.5
learning_rate = 0.25

[text_encoder]
train = false

[text_encoder_2]
rank = 4
"""


def write(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    return str(file)


def assert_one_line(refusal: pytest.ExceptionInfo, *words: str) -> None:
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_flags_and_a_file_give_the_same_options(tmp_path):
    by_flags = parse_options(FLAGS)
    file = write(tmp_path / "run.toml", FILE_TEXT)
    assert parse_options(["--config", file]) == parse_options([f"--config={file}"]) == by_flags
    untouched = parse_options(NEEDED)
    for field in dataclasses.fields(DreamboothOptions):  # the two lists above are complete
        assert getattr(by_flags, field.name) != getattr(untouched, field.name), field.name


def test_flags_win_over_the_file_and_a_later_file_over_an_earlier(tmp_path):
    first = write(tmp_path / "first.toml", FILE_TEXT)
    second = write(tmp_path / "second.toml", "steps = 11\nseed = 12\n[unet]\nrank = 13\n")
    parsed = parse_options(["--steps", "99", "--config", first, "--config", second])
    assert (parsed.steps, parsed.seed, parsed.unet.rank) == (99, 12, 13)
    assert parsed.unet.alpha == 1.5  # a table is laid over, not replaced


@pytest.mark.parametrize("flags", [NEEDED, FITTING, [*NEEDED, "--unet.no-train"]])
def test_the_resolved_options_read_back_from_their_file(tmp_path, flags):
    resolved = with_recommended(parse_options(flags))
    file = write(tmp_path / "config.toml", to_toml(resolved))
    assert parse_options(["--config", file]) == resolved
    assert with_recommended(parse_options(["--config", file])) == resolved


def test_text_with_quotes_and_umlauts_reads_back(tmp_path):
    odd = parse_options([*NEEDED, "--sample-prompts", 'größer, "[V]"\\n and\nbluer'])
    assert parse_options(["--config", write(tmp_path / "c.toml", to_toml(odd))]) == odd


def test_an_unknown_flag_is_refused_in_one_line_with_a_suggestion():
    with pytest.raises(StudioError, match=r"--stepz.*Did you mean --steps") as refused:
        parse_options([*NEEDED, "--stepz", "5"])
    assert "\n" not in str(refused.value)


def test_a_missing_option_is_named():
    with pytest.raises(StudioError, match="--prompt"):
        parse_options(NEEDED[:2])


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbfsteps = 7\n")
    assert parse_options([*NEEDED, "--config", str(file)]).steps == 7


@pytest.mark.parametrize("text", [r'"C:\temp\new"', r'"C:\Users\me"', r'["a"]  # "C:\temp"'])
def test_a_windows_path_never_becomes_a_tab(tmp_path, text):
    file = tmp_path / "c.toml"
    file.write_text(f"output_dir = {text}\n", encoding="utf-8")
    with pytest.raises(StudioError, match="single quotes" if text.startswith('"') else "string"):
        parse_options([*NEEDED, "--config", str(file)])
    file.write_text("output_dir = 'C:\\temp\\new'\n", encoding="utf-8")
    options = parse_options([*NEEDED, "--config", str(file)])
    assert str(options.output_dir) == "C:\\temp\\new"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 5", ("'stepz'", "'steps'")),
        ("[unet]\nranks = 5", ("'unet.ranks'", "'rank'")),
        ("steps = 'many'", ("steps", "'many'")),
        ("steps = 2.5", ("steps", "2.5")),
        ("steps = true", ("steps", "True")),
        ("gradient_checkpointing = 1", ("gradient_checkpointing", "1")),
        ("seed = '1'", ("seed", "'1'")),
        ("prompt = 5", ("prompt", "5")),
        ("precision = 'int8'", ("precision", "bf16", "'int8'")),
        ("base_bits = 5", ("base_bits", "16, 8, 4", "5")),
        ("schedule = 3", ("schedule", "cosine", "3")),
        ("override = 'lora.unet.rank=1'", ("override",)),
        ("override = [1]", ("override",)),
        ("unet = 5", ("unet", "table")),
        ("steps = ", ("not valid TOML",)),
        ("steps = 1\nsteps = 2", ("not valid TOML",)),
    ],
)
def test_a_mistake_in_a_file_is_one_line(tmp_path, text, words):
    file = write(tmp_path / "run.toml", text)
    with pytest.raises(StudioError) as refusal:
        parse_options([*NEEDED, "--config", file])
    assert_one_line(refusal, file, *words)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    latin = tmp_path / "latin.toml"
    latin.write_bytes('prompt = "gr\xf6\xdfer"'.encode("latin-1"))
    for file in (tmp_path / "none.toml", tmp_path, latin):
        with pytest.raises(StudioError) as refusal:
            parse_options(["--config", str(file)])
        assert_one_line(refusal, str(file))
    with pytest.raises(StudioError, match="a TOML file after it"):
        parse_options(["--config"])


def test_a_file_with_every_default_written_out_changes_nothing(tmp_path):
    defaults = {"steps": 3, "unet": {"train": True}, "override": [], "seed": 0, "model": "embedded"}
    file = write(tmp_path / "c.toml", tomli_w.dumps(defaults))
    assert parse_options([*NEEDED, "--config", file]) == parse_options([*NEEDED, "--steps", "3"])
