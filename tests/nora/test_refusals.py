"""What NoRA cannot adapt is refused at once, with the name, the shape and the remedy."""

import pytest
import torch
from torch import nn

from nora_studio.errors import StudioError
from nora_studio.nora import NoraConfig, NoraLinear

ROWS, COLUMNS, OUTER, RANK, ALPHA = 40, 24, 12, 4, 6.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 0}, "rank must be a whole number of 1 or more; got 0 for r"),
        ({"r": True}, "whole number"),
        ({"r": 2.5}, "whole number"),
        ({"outer_rank": 0}, "for outer_rank"),
        ({"r": 16, "outer_rank": 8}, r"must not exceed outer_rank \(8\); got 16 for r"),
        ({"rank_pattern": {"to_q": 65}}, "got 65 for to_q"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"alpha_pattern": {"to_q": -1.0}}, "got -1.0 for to_q"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
        ({"start": "zero"}, "start must be one of difference, paper; got 'zero'"),
        ({"outer": "pca"}, "outer must be one of svd, randomized, activation"),
        ({"outer": "activation"}, "pass mean_abs_inputs"),
        ({"target_modules": ".*to_q", "layers_to_transform": 1}, "need a list of target_modules"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, words):
    with pytest.raises(StudioError, match=words):
        NoraConfig(**settings)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda weight: weight.zero_(), r"mid\.to_q: .* 40x24 weight is all zeros"),
        (lambda weight: weight.fill_(float("nan")), r"mid\.to_q: .* 40x24 weight holds NaN"),
    ],
)
def test_a_weight_without_singular_values_is_refused_by_name(damage, words):
    base = nn.Linear(COLUMNS, ROWS).requires_grad_(False)
    damage(base.weight)
    layer = NoraLinear(base, "mid.to_q")
    with pytest.raises(StudioError, match=words):
        layer.update_layer("default", NoraConfig(outer_rank=OUTER), RANK, ALPHA, "mid.to_q")


def test_an_outer_rank_too_large_names_the_layer_and_its_shape():
    layer = NoraLinear(nn.Linear(COLUMNS, ROWS), "mid.to_q")
    words = r"outer_rank must be at most 24 for mid\.to_q \(40x24\); got 64"
    with pytest.raises(StudioError, match=words):
        layer.update_layer("default", NoraConfig(r=RANK), RANK, ALPHA, "mid.to_q")


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Conv2d(3, 8, 3), "conv is a Conv2d"),
        (nn.Embedding(8, 8), "conv is a Embedding"),
        (nn.MultiheadAttention(8, 2).out_proj, "would do nothing"),
        (nn.Linear(8, 8).to(torch.float8_e4m3fn), "float8"),
    ],
)
def test_layers_that_nora_cannot_adapt_are_refused(module, words):
    with pytest.raises(StudioError, match=words):
        NoraLinear(module, "conv")
