"""The three decompositions do what their docstrings say."""

import pytest
import torch
from support.tolerances import FLOAT32_FACTORS, FLOAT32_PRODUCTS, TOLERANCE

from nora_studio.errors import StudioError
from nora_studio.nora.svd import (
    activation_aware_svd,
    canonical_signs,
    outer_factors,
    randomized_svd,
    truncated_svd,
)

SHAPES = [(24, 40), (40, 24), (32, 32)]


def random_weight(rows: int, columns: int, decay: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 1000 + columns)
    weight = torch.randn(rows, columns, generator=generator)
    up, singular, down = torch.linalg.svd(weight, full_matrices=False)
    steps = torch.arange(len(singular), dtype=torch.float32)
    return up * (singular * torch.exp(-decay * steps)) @ down


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [truncated_svd, randomized_svd])
def test_product_is_the_closest_of_its_rank(factor, shape):
    weight = random_weight(*shape, decay=0.2)
    up, singular, down = factor(weight, 6)
    left, all_singular, right = torch.linalg.svd(weight.double(), full_matrices=False)
    best = left[:, :6] * all_singular[:6] @ right[:6]
    torch.testing.assert_close(up * singular @ down, best.float(), **FLOAT32_PRODUCTS)
    torch.testing.assert_close(singular, all_singular[:6].float(), **FLOAT32_FACTORS)


@pytest.mark.parametrize("factor", [truncated_svd, randomized_svd])
def test_factors_are_orthonormal(factor):
    up, singular, down = factor(random_weight(40, 24), 8)
    torch.testing.assert_close(up.T @ up, torch.eye(8), **TOLERANCE[torch.float32])
    torch.testing.assert_close(down @ down.T, torch.eye(8), **TOLERANCE[torch.float32])
    assert bool((singular[:-1] >= singular[1:]).all())


@pytest.mark.parametrize("factor", [truncated_svd, randomized_svd])
def test_largest_entry_of_every_left_vector_is_positive(factor):
    up, _, _ = factor(random_weight(24, 40), 8)
    assert bool((up.gather(0, up.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_canonical_signs_keep_the_product_and_ignore_the_old_signs():
    up, _, down = truncated_svd(random_weight(24, 40), 8)
    flips = torch.tensor([1.0, -1.0] * 4)
    again_up, again_down = canonical_signs(up * flips, down * flips[:, None])
    assert torch.equal(again_up, up) and torch.equal(again_down, down)
    assert not torch.equal(up * flips, up)


def test_randomized_svd_is_deterministic_and_does_not_use_the_global_generator():
    weight = random_weight(40, 24)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = randomized_svd(weight, 5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, randomized_svd(weight, 5), strict=True))
    other = randomized_svd(weight, 5, oversampling=1, iterations=0, seed=9)
    assert not torch.equal(first[0], other[0])


def test_rank_deficient_weight_gives_zero_singular_values():
    weight = torch.outer(torch.arange(1.0, 9.0), torch.arange(1.0, 7.0))
    for factor in (truncated_svd, randomized_svd):
        up, singular, down = factor(weight, 4)
        assert float(singular[1:].abs().max()) < 1e-4 * float(singular[0])
        torch.testing.assert_close(up * singular @ down, weight, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_decomposed_in_float32(dtype):
    weight = random_weight(24, 40).to(dtype)
    wide = truncated_svd(weight.float(), 6)
    narrow = truncated_svd(weight, 6)
    assert all(factor.dtype == dtype for factor in narrow)
    assert all(torch.equal(a.to(dtype), b) for a, b in zip(wide, narrow, strict=True))
    assert truncated_svd(weight, 6, torch.float32)[0].dtype == torch.float32


def test_activation_aware_factors_beat_plain_ones_on_the_inputs_they_saw():
    weight = random_weight(32, 40)
    generator = torch.Generator().manual_seed(0)
    channels = torch.linspace(0.02, 3.0, 40)[torch.randperm(40, generator=generator)]
    inputs = torch.randn(500, 40, generator=generator) * channels

    def output_error(factors: tuple[torch.Tensor, ...]) -> float:
        up, singular, down = factors
        return float((inputs @ (weight - up * singular @ down).T).norm())

    aware = activation_aware_svd(weight, inputs.abs().mean(dim=0), 8)
    assert output_error(aware) < 0.95 * output_error(truncated_svd(weight, 8))


def test_activation_aware_product_is_the_best_weighted_one():
    weight, activity = random_weight(24, 40), torch.linspace(0.1, 1.1, 40)
    up, singular, down = activation_aware_svd(weight, activity, 6, power=0.5)
    left, all_singular, right = torch.linalg.svd(weight * activity**0.5, full_matrices=False)
    best = left[:, :6] * all_singular[:6] @ right[:6] / activity**0.5
    torch.testing.assert_close(up * singular @ down, best, **FLOAT32_PRODUCTS)
    plain = activation_aware_svd(weight, activity, 6, power=0.0)
    torch.testing.assert_close(plain[2], truncated_svd(weight, 6)[2], **FLOAT32_FACTORS)


def test_activation_aware_factors_stay_bounded_with_an_inactive_channel():
    activity = torch.ones(40)
    activity[7] = 0.0
    _, _, down = activation_aware_svd(random_weight(24, 40), activity, 8)
    assert bool(torch.isfinite(down).all()) and float(down.abs().max()) < 10
    lifted = activation_aware_svd(random_weight(24, 40), activity.clamp(min=1e-3), 8)
    torch.testing.assert_close(down, lifted[2], **FLOAT32_FACTORS)


@pytest.mark.parametrize(
    ("activity", "words"),
    [
        (torch.ones(39), "one value per input channel"),
        (torch.zeros(40), "all zero"),
        (-torch.ones(40), "not negative"),
        (torch.full((40,), float("nan")), "finite"),
    ],
)
def test_activation_statistics_that_do_not_fit_are_refused(activity, words):
    with pytest.raises(StudioError, match=words):
        activation_aware_svd(random_weight(24, 40), activity, 6)


@pytest.mark.parametrize("factor", [truncated_svd, randomized_svd])
@pytest.mark.parametrize("rank", [0, 25, -1])
def test_rank_out_of_range_is_refused_with_the_range(factor, rank):
    with pytest.raises(StudioError, match=rf"1-24 for a 24x40 weight; got {rank}"):
        factor(random_weight(24, 40), rank)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_damaged_weights_are_refused(bad):
    weight = random_weight(24, 40)
    weight[3, 3] = bad
    for outer in ("svd", "randomized"):
        with pytest.raises(StudioError, match="NaN or infinity"):
            outer_factors(weight, 4, outer)


def test_quantised_and_flat_weights_are_refused():
    with pytest.raises(StudioError, match="floating-point matrix"):
        truncated_svd(torch.ones(4, 4, dtype=torch.int8), 2)
    with pytest.raises(StudioError, match="floating-point matrix"):
        truncated_svd(torch.ones(4), 1)


def test_an_all_zero_weight_is_refused_as_a_start():
    with pytest.raises(StudioError, match="all zeros"):
        outer_factors(torch.zeros(8, 8), 4, "svd")
