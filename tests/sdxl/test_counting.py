"""Multiplications and memory of a step, counted without running it."""

import gc

import pytest
import torch
from accelerate.state import AcceleratorState
from support.any_module import AnyModule
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.sdxl.shapes import shapes_of
from nora_studio.tasks.commonsense import counting
from nora_studio.tasks.commonsense.cost_tables import counted_table
from nora_studio.tasks.commonsense.costs import VARIANTS, Variant, extra_flops

SHAPE, TOKENS = "llama-3-8b", 64


def test_bytes_are_counted_while_allocated_and_views_once():
    with counting.LiveBytes() as live:
        a = torch.zeros(1000)
        assert (live.now, live.peak) == (4000, 4000)
        b = a + 1
        c = a[:10].view(2, 5)
        assert live.now == 8000
        del a
        assert live.now == 8000, "a view keeps its storage alive"
        del c
        assert (live.now, live.peak) == (4000, 8000)
        b.add_(1)
        assert live.now == 4000
        del b
    assert (live.now, live.peak) == (0, 8000)


def test_tensors_without_contents_count_as_real_ones():
    def step() -> int:
        model = nn.Sequential(nn.Linear(50, 70), nn.GELU(), nn.Linear(70, 30), nn.LayerNorm(30))
        for _ in range(2):
            model(torch.zeros(8, 50)).square().sum().backward()
        return len(list(model.parameters()))

    peaks = []
    for _ in range(2):
        gc.collect()
        with counting.LiveBytes() as live:
            step()
        peaks.append(live.peak)
    with FakeTensorMode(), counting.LiveBytes() as live:
        step()
    assert peaks == [live.peak, live.peak]
    weights = 4 * (50 * 70 + 70 + 70 * 30 + 30 + 60)
    assert 2 * weights < live.peak < 4 * weights


@pytest.fixture(scope="module")
def counted():
    variants = [variant for variant in VARIANTS[SHAPE] if "32" not in variant.label]
    variants += [Variant("nora", AdapterSpec("nora", 32, outer_rank=704))]
    AcceleratorState._reset_state(True)  # Other tests train in another precision.
    cells = [(v, counting.count(SHAPE, v, 2, TOKENS // 2, layers=1)) for v in variants]
    AcceleratorState._reset_state(True)
    return {variant.label: (variant, cell) for variant, cell in cells}


def test_counted_products_equal_the_formulas(counted):
    """Beside the linear layers there is attention, and the trained adapters' smallest products."""
    _, bare = counted["base alone"]
    whole: AnyModule = shapes_of(SHAPE)["model"]
    whole.model.layers = whole.model.layers[:1]
    for label in ("LoRA 16", "nora"):
        variant, cell = counted[label]
        extra = (cell["tflop"] - bare["tflop"]) / bare["tflop"]
        assert extra == pytest.approx(extra_flops(whole, variant, TOKENS), abs=0.02)


def test_the_frozen_base_is_counted_to_the_byte(counted):
    whole: AnyModule = shapes_of(SHAPE)["model"]
    whole.model.layers = whole.model.layers[:1]
    weights = sum(weight.numel() for weight in whole.parameters())
    buffers = sum(buffer.nbytes for buffer in whole.buffers())
    for _, cell in counted.values():
        if "failed" not in cell:
            assert cell["base_gib"] == pytest.approx((2 * weights + buffers) / 2**30, abs=1e-3)
            assert cell["peak_gib"] > cell["base_gib"]


def test_costs_that_depend_on_values_are_marked_as_not_counted(counted):
    assert counted["LoKr 16"][1].keys() == {"failed"}
    page = counted_table(SHAPE, list(counted.values()))
    assert "| LoKr 16 | not counted" in page and "| 1.000 | 1.000 |" in page
    assert "time 0.775, memory 0.97." in page


def test_modules_can_be_moved_after_counting(counted):
    assert nn.Linear(2, 2).double().weight.dtype == torch.float64
