"""A language model of the smallest size, with a tokenizer of its own, for tests."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nora_studio.mini.everyday.questions import SETS, Row, questions
from nora_studio.mini.pretrain.language_card import export_model
from nora_studio.mini.pretrain.language_model import build_model
from nora_studio.mini.pretrain.language_settings import LanguageSettings
from nora_studio.mini.pretrain.language_text import build_tokenizer
from nora_studio.tasks.commonsense.prompts import training_prompt

HIGH = 6.0
"""Factor on the drawn weights, so that an untrained model is sure of what it says."""


def tiny_llama(folder: Path) -> Path:
    """Save two blocks, 64 wide, of random weights, and a tokenizer of some 700 tokens."""
    prompts = [training_prompt(row) for name in SETS for row in questions(name, "train", 8)]
    tokenizer = build_tokenizer(folder, prompts, vocabulary=700, documents_read=300)
    model = build_model(LanguageSettings(width=64, layers=2), tokenizer)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name or "embed" in name:
                weight.mul_(HIGH)
    export_model(folder, model)
    return folder


def load(folder: Path) -> tuple[Any, Any]:
    """Model in float32 and evaluation mode, and tokenizer, as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def some_rows(count: int) -> list[Row]:
    """Questions of all sets, in turn."""
    each = [questions(name, "train", count // 4 + 8) for name in SETS]
    return [each[n % len(each)][n // len(each)] for n in range(count)]
