"""The shipped language model: its size, its files, and the figures of its card."""

import json
from functools import partial

import pytest
from safetensors import safe_open
from support.language import load
from support.places import TOP

from nora_studio.mini.everyday.questions import SETS, questions
from nora_studio.mini.pretrain.language_model import Quizzes
from nora_studio.tasks.commonsense.models import load_tokenizer
from nora_studio.tasks.commonsense.prompts import training_prompt

FOLDER = TOP / "assets" / "mini-llama"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "model.safetensors").is_file(),
    reason="assets/mini-llama is not built: run training/pretrain_mini_llama.py",
)


def test_the_llama_weights_are_safetensors_of_at_most_16_mib():
    files = {file.suffix for file in FOLDER.iterdir()}
    assert files <= {".safetensors", ".json", ".md"}
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) <= 16 * 2**20
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F16"}  # noqa: SIM118


def test_every_question_fits_into_the_cutoff():
    tokenizer = load_tokenizer(str(FOLDER))
    for name in SETS:
        for row in questions(name, "test", 40):
            assert len(tokenizer(training_prompt(row)).input_ids) < 256


def test_the_llama_answers_as_its_card_says():
    model, tokenizer = load(FOLDER)
    log = json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))["language"]
    assert model.num_parameters() == log["parameters"]
    about = partial(Quizzes.build, tokenizer=tokenizer, device="cpu", count=96)
    for name, parts in {"asked": ("quiz",), "never_asked": ("train", "test")}.items():
        assert abs(about(parts).accuracy(model) - log["accuracy"][name]) < 0.15
