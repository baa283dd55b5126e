"""Each method's rank, rates and scale for CLIP and for language models, number by number."""

import math

import pytest

from nora_studio.adapters.methods.table import METHODS
from nora_studio.tasks.commonsense.recommended import recommended as for_language
from nora_studio.tasks.fewshot.methods import METHODS as FEWSHOT
from nora_studio.tasks.fewshot.recommended import recommended as for_clip

ROOT = math.sqrt(2)
CLIP = {
    "clip-lora": (2, (2e-4,), 1.0, None),
    "lora+": (2, (2e-4,), ROOT, None),
    "adalora": (2, (1e-3, 2e-4), ROOT, None),
    "dylora": (2, (2e-4,), ROOT, None),
    "lora-fa": (2, (2e-4,), ROOT, None),
    "vera": (256, (4e-3, 1e-3), None, None),
    "nora": (8, (5e-5, 1e-4, 2e-5), None, 64),
    "clip-adapter": (4, (1e-3,), None, None),
}
EMBEDDED_CLIP = {
    "clip-lora": (2, (1e-2, 3e-3, 3e-2), 1.0, None),
    "lora+": (2, (3e-3, 1e-3, 1e-2), ROOT, None),
    "adalora": (2, (2e-2, 6e-3, 6e-2), ROOT, None),
    "dylora": (2, (1e-2, 3e-3, 3e-2), ROOT, None),
    "lora-fa": (2, (1e-2, 3e-3, 3e-2), ROOT, None),
    "vera": (64, (3e-2, 1e-2, 1e-1), None, None),
    "nora": (8, (1e-2, 3e-3, 3e-2), None, 32),
    "clip-adapter": (4, (3e-3, 1e-3, 1e-2), None, None),
}
# Rates come from products of floats, so their last digits are written out.
LLAMA = {
    "nora": (32, 0.0003, 704), "lora": (16, 0.0003, None), "lora+": (16, 0.00015, None),
    "lora-fa": (16, 0.0003, None), "rslora": (16, 0.00015, None), "dora": (16, 0.0003, None),
    "pissa": (16, 5.9999999999999995e-05, None), "olora": (16, 2.9999999999999997e-05, None),
    "lora-xs": (64, 0.0003, None), "dylora": (16, 0.0003, None), "tied-lora": (16, 0.0003, None),
    "adalora": (8, 0.0029999999999999996, None), "lokr": (16, 0.0014999999999999998, None),
    "loha": (8, 0.0006, None), "vera": (256, 0.011999999999999999, None),
    "vblora": (4, 0.03, None), "randlora": (32, 0.0003, None), "oft": (32, 0.0003, None),
}  # fmt: skip
EMBEDDED_LLAMA = {
    "nora": (16, 0.004, 128), "lora": (16, 0.002, None), "lora+": (16, 0.001, None),
    "lora-fa": (16, 0.002, None), "rslora": (16, 0.001, None), "dora": (16, 0.002, None),
    "pissa": (16, 0.0004, None), "olora": (16, 0.001, None), "lora-xs": (16, 0.01, None),
    "dylora": (16, 0.002, None), "tied-lora": (16, 0.01, None), "adalora": (8, 0.01, None),
    "lokr": (16, 0.01, None), "loha": (8, 0.004, None), "vera": (16, 0.01, None),
    "vblora": (4, 0.01, None), "randlora": (16, 0.002, None), "oft": (16, 0.002, None),
}  # fmt: skip


@pytest.mark.parametrize(("model", "table"), [("ViT-B-16", CLIP), ("embedded", EMBEDDED_CLIP)])
def test_every_few_shot_method_that_trains_has_these_numbers(model, table):
    assert table.keys() == {name for name, method in FEWSHOT.items() if method.trains}
    for name, expected in table.items():
        found = for_clip(name, model)
        assert (found.rank, found.rates, found.alpha, found.outer_rank) == expected, name
        assert found.learning_rate("vision") == found.learning_rate("text") == expected[1][0]


@pytest.mark.parametrize(("model", "table"), [("some/llama", LLAMA), ("embedded", EMBEDDED_LLAMA)])
def test_every_method_has_these_numbers_on_language_models(model, table):
    assert table.keys() == METHODS.keys()
    for name, expected in table.items():
        found = for_language(name, model)
        assert (found.rank, found.rate, found.outer_rank) == expected, name
        assert found.alpha is None and found.rates == (found.rate,)
