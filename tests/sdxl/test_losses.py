"""Losses against their formulas in float64, and batches that can be resumed."""

import math
from collections import Counter

import pytest
import torch
from diffusers import EDMEulerScheduler

from nora_studio.sdxl.cache import LatentCache
from nora_studio.sdxl.losses import (
    debiased_weights,
    denoising_loss,
    denoising_target,
    edm_coefficients,
    min_snr_weights,
    noisy_latents,
)
from nora_studio.tasks.dreambooth.batches import PhotoBatches

LENGTH = 1000
CLOSE = 2e-6
"""Relative tolerance of float32 against float64."""


@pytest.fixture(scope="module")
def schedule() -> list[float]:
    """SDXL's product of 1 - beta, one number at a time in Python's own floats."""
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    product, products = 1.0, []
    for step in range(LENGTH):
        product *= 1 - (first + (last - first) * step / (LENGTH - 1)) ** 2
        products.append(product)
    return products


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents and noise (4, 2, 3, 3), float32, and timesteps at both ends and between."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 2, 3, 3, generator=generator)
    return latents, noise, torch.tensor([0, 1, 500, 999])


def assert_close(ours: torch.Tensor, theirs: torch.Tensor | float) -> None:
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), theirs, rtol=CLOSE, atol=CLOSE)


def test_noisy_latents_follow_the_forward_process(schedule, batch):
    latents, noise, timesteps = batch
    expected = torch.stack(
        [
            math.sqrt(schedule[t]) * x + math.sqrt(1 - schedule[t]) * e
            for x, e, t in zip(latents.double(), noise.double(), timesteps.tolist(), strict=True)
        ]
    )
    assert_close(noisy_latents(latents, noise, torch.tensor(schedule), timesteps), expected)


def test_epsilon_targets_are_the_noise(schedule, batch):
    latents, noise, timesteps = batch
    target = denoising_target(latents, noise, torch.tensor(schedule), timesteps, "epsilon")
    assert torch.equal(target, noise)


def test_v_targets_follow_their_definition(schedule, batch):
    latents, noise, timesteps = batch
    expected = torch.stack(
        [
            math.sqrt(schedule[t]) * e - math.sqrt(1 - schedule[t]) * x
            for x, e, t in zip(latents.double(), noise.double(), timesteps.tolist(), strict=True)
        ]
    )
    alphas = torch.tensor(schedule)
    assert_close(denoising_target(latents, noise, alphas, timesteps, "v_prediction"), expected)


def test_other_predictions_are_refused(schedule, batch):
    latents, noise, timesteps = batch
    with pytest.raises(ValueError, match="sample"):
        denoising_target(latents, noise, torch.tensor(schedule), timesteps, "sample")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_follow_the_paper(schedule, batch, kind, gamma):
    expected = []
    for t in batch[2].tolist():
        snr = schedule[t] / (1 - schedule[t])
        expected.append(min(snr, gamma) / (snr if kind == "epsilon" else snr + 1))
    weights = min_snr_weights(torch.tensor(schedule), batch[2], gamma, kind)
    torch.testing.assert_close(
        weights.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_min_snr_of_both_predictions_is_the_same_loss_of_the_clean_image(schedule):
    # An error d in x0 is sqrt(SNR) d in eps and sqrt(SNR + 1) d in v: the same weighted loss.
    timesteps, alphas = torch.arange(0, LENGTH, 37), torch.tensor(schedule)
    snr = alphas[timesteps].double() / (1 - alphas[timesteps].double())
    of_noise = min_snr_weights(alphas, timesteps, 5.0, "epsilon") * snr
    of_v = min_snr_weights(alphas, timesteps, 5.0, "v_prediction") * (snr + 1)
    torch.testing.assert_close(of_noise, of_v, rtol=1e-5, atol=0)
    assert torch.allclose(of_noise, snr.clamp(max=5.0), rtol=1e-4)


def test_the_loss_is_the_mean_of_weighted_squares(batch):
    prediction, target, _ = batch
    weights = torch.tensor([0.5, 2.0, 0.0, 1.0])
    per_picture = [
        (p - t).pow(2).mean() for p, t in zip(prediction.double(), target.double(), strict=True)
    ]
    plain = sum(per_picture) / 4
    weighted = sum(w * value for w, value in zip(weights.tolist(), per_picture, strict=True)) / 4
    assert_close(denoising_loss(prediction, target), plain)
    assert_close(denoising_loss(prediction, target, weights), weighted)


def test_half_precision_predictions_are_compared_in_float32():
    prediction, target = torch.full((1, 1, 1, 1), 300.0), torch.zeros(1, 1, 1, 1)
    assert denoising_loss(prediction.half(), target.half()).item() == 90000.0  # past float16's end


def latent_cache(photos: int) -> LatentCache:
    """Latents that tell their photo: photo i is all i, give or take a hundredth."""
    mean = torch.arange(photos, dtype=torch.float32).view(-1, 1, 1, 1).expand(photos, 2, 3, 3)
    return LatentCache(mean, torch.full_like(mean, 0.01), torch.arange(6.0 * photos).view(-1, 6))


def photos_in(batch: dict[str, torch.Tensor]) -> list[int]:
    return batch["latents"].mean(dim=(1, 2, 3)).round().int().tolist()


@pytest.mark.parametrize(("photos", "batch_size"), [(5, 2), (3, 4), (4, 4), (1, 3)])
def test_photos_are_shuffled_and_used_once_per_epoch(photos, batch_size):
    batches = PhotoBatches(latent_cache(photos), batch_size, LENGTH, seed=3)
    rounds = 8
    order: list[int] = []
    while len(order) < rounds * photos:
        order += photos_in(batches.next())
    cut = [tuple(order[i * photos : (i + 1) * photos]) for i in range(rounds)]
    assert all(sorted(once) == list(range(photos)) for once in cut)
    if photos > 2:
        assert len(set(cut)) > 1  # shuffled anew


def test_the_timesteps_of_a_batch_are_stratified(photos=5, batch_size=4):
    batches = PhotoBatches(latent_cache(photos), batch_size, LENGTH, seed=0)
    seen = torch.stack([batches.next()["timesteps"] for _ in range(500)])
    shares = seen // (LENGTH // batch_size)
    assert torch.equal(shares, torch.arange(batch_size).expand(500, -1))
    # Within the shares, even: all of 0..999 together have the mean and spread of a uniform draw.
    assert seen.double().mean().item() == pytest.approx(499.5, abs=8)
    assert seen.double().std().item() == pytest.approx(LENGTH / math.sqrt(12), abs=8)
    assert seen.min() < 10
    assert seen.max() > 989


def test_strata_that_do_not_divide_the_schedule_stay_in_range():
    batches = PhotoBatches(latent_cache(2), 7, 10, seed=0)
    seen = Counter(t for _ in range(300) for t in batches.next()["timesteps"].tolist())
    assert set(seen) == set(range(10))


def test_time_ids_belong_to_their_photos():
    cache = latent_cache(5)
    batches = PhotoBatches(cache, 3, LENGTH, seed=1)
    for _ in range(6):
        batch = batches.next()
        assert torch.equal(batch["time_ids"], cache.time_ids[photos_in(batch)])


def test_latents_are_sampled_from_the_posterior():
    cache = latent_cache(1)
    batches = PhotoBatches(cache, 64, LENGTH, seed=1)
    deviation = torch.cat([batches.next()["latents"] - cache.mean for _ in range(20)])
    assert deviation.std().item() == pytest.approx(0.01, rel=0.05)
    assert batches.next()["noise"].std().item() == pytest.approx(1.0, rel=0.1)


def test_restored_batches_continue_the_same():
    first = PhotoBatches(latent_cache(5), 2, LENGTH, seed=0)
    for _ in range(4):
        first.next()
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    expected = [first.next() for _ in range(7)]
    second = PhotoBatches(latent_cache(5), 2, LENGTH, seed=99)
    second.restore(state)
    for batch in expected:
        again = second.next()
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_another_seed_samples_other_batches():
    one, other = (PhotoBatches(latent_cache(5), 2, LENGTH, seed).next() for seed in (0, 1))
    assert not torch.equal(one["noise"], other["noise"])
    assert not torch.equal(one["timesteps"], other["timesteps"])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_debiased_weights_follow_the_paper(schedule, batch, kind):
    expected = []
    for t in batch[2].tolist():
        snr = min(schedule[t] / (1 - schedule[t]), 1000.0)
        expected.append(1 / math.sqrt(snr) if kind == "epsilon" else math.sqrt(snr) / (snr + 1))
    weights = debiased_weights(torch.tensor(schedule), batch[2], kind)
    torch.testing.assert_close(
        weights.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_debiased_weights_of_both_predictions_are_the_same_loss(schedule):
    timesteps, alphas = torch.arange(37, LENGTH, 37), torch.tensor(schedule)
    snr = alphas[timesteps].double() / (1 - alphas[timesteps].double())
    of_noise = debiased_weights(alphas, timesteps, "epsilon") * snr
    of_v = debiased_weights(alphas, timesteps, "v_prediction") * (snr + 1)
    torch.testing.assert_close(of_noise, of_v, rtol=1e-5, atol=0)
    assert torch.allclose(of_noise, snr.sqrt(), rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_edm_coefficients_equal_those_of_diffusers(kind):
    scheduler = EDMEulerScheduler(prediction_type=kind)
    sigmas = torch.tensor([0.002, 0.3, 1.0, 80.0])
    coefficients = edm_coefficients(sigmas, 0.5, kind)
    answer, noisy = torch.randn(2, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for i, sigma in enumerate(sigmas.tolist()):
        seen = scheduler.precondition_inputs(noisy[i], sigma)
        torch.testing.assert_close(coefficients.scale_in[i] * noisy[i], seen)
        clean = scheduler.precondition_outputs(noisy[i], answer[i], sigma)
        ours = coefficients.skip[i] * noisy[i] + coefficients.scale_out[i] * answer[i]
        torch.testing.assert_close(ours, clean)
        expected = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        assert coefficients.weights[i].item() == pytest.approx(expected, rel=1e-5)


def test_edm_weights_make_every_noise_level_count_the_same():
    # With them, an answer off by d costs d squared at every level: lambda * c_out^2 = 1.
    sigmas = torch.logspace(-2, 2, 9)
    coefficients = edm_coefficients(sigmas, 0.5, "epsilon")
    product = coefficients.weights * coefficients.scale_out.flatten() ** 2
    torch.testing.assert_close(product, torch.ones(9))
