"""The UNet's input and the loss at each noise level, for DDPM and EDM bases."""

import math

import pytest
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from nora_studio.errors import StudioError
from nora_studio.sdxl.diffusion import Denoising, with_offset


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(2))


def test_an_edm_base_gets_the_input_of_its_sampler(tiny_pipe, latents, noise):
    tiny_pipe.scheduler = EDMEulerScheduler()
    process = Denoising.of(tiny_pipe)
    sampler = EDMEulerScheduler()  # with every level it was trained on
    timesteps = torch.tensor([0, 500, process.length - 1])
    given, level = process.model_input(latents, noise, timesteps)
    for row, t in enumerate(timesteps.tolist()):
        index = process.length - 1 - t  # samplers go from noise to picture
        sampler._step_index = index
        sigma = sampler.sigmas[index]
        noisy = latents[row] + sigma * noise[row]
        torch.testing.assert_close(given[row], sampler.scale_model_input(noisy, level[row]))
        torch.testing.assert_close(level[row], sampler.timesteps[index])


def test_a_perfect_prediction_has_no_loss_on_an_edm_base(tiny_pipe, latents, noise):
    tiny_pipe.scheduler = EDMEulerScheduler()
    process = Denoising.of(tiny_pipe)
    timesteps = torch.tensor([100, 500, 900])
    sigmas = process.levels[timesteps].view(-1, 1, 1, 1)
    noisy = latents + sigmas * noise
    skip = 0.25 / (sigmas**2 + 0.25)
    perfect = (latents - skip * noisy) * (sigmas**2 + 0.25).sqrt() / (0.5 * sigmas)
    assert process.loss(perfect, latents, noise, timesteps).item() < 1e-8
    off = process.loss(perfect + 0.5, latents, noise, timesteps).item()
    assert off == pytest.approx(0.25, rel=1e-4)  # whatever the level


def test_an_edm_base_refuses_a_second_weighting(tiny_pipe):
    tiny_pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(
        StudioError, match=r"--weighting debiased: .* EDM family.*Leave --weighting out"
    ):
        Denoising.of(tiny_pipe, "debiased")


@pytest.mark.parametrize("weighting", ["none", "min-snr", "debiased"])
def test_importance_and_weighting_multiply(tiny_pipe, latents, noise, weighting):
    process = Denoising.of(tiny_pipe, weighting)
    timesteps, importance = torch.tensor([10, 400, 900]), torch.tensor([2.0, 0.0, 0.5])
    answer = torch.zeros_like(noise)
    alone = [
        process.loss(answer[i : i + 1], latents[i : i + 1], noise[i : i + 1], timesteps[i : i + 1])
        for i in range(3)
    ]
    expected = sum(share * loss for share, loss in zip(importance, alone, strict=True)) / 3
    assert_together = process.loss(answer, latents, noise, timesteps, importance)
    torch.testing.assert_close(assert_together, expected)


def test_weightings_differ(tiny_pipe, latents, noise):
    timesteps = torch.tensor([10, 400, 900])
    losses = {
        Denoising.of(tiny_pipe, kind).loss(latents, latents, noise, timesteps).item()
        for kind in ("none", "min-snr", "debiased")
    }
    assert len(losses) == 3


@pytest.mark.parametrize(
    "scheduler",
    [FlowMatchEulerDiscreteScheduler(), EulerDiscreteScheduler(prediction_type="sample")],
)
def test_a_base_of_another_process_is_refused(tiny_pipe, scheduler):
    tiny_pipe.scheduler = scheduler
    with pytest.raises(StudioError, match=type(scheduler).__name__):
        Denoising.of(tiny_pipe)


def test_a_zero_terminal_snr_base_keeps_its_schedule(tiny_pipe):
    config = tiny_pipe.scheduler.config
    tiny_pipe.scheduler = EulerDiscreteScheduler.from_config(
        config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    assert Denoising.of(tiny_pipe).levels[-1].item() == pytest.approx(0, abs=1e-7)


def test_the_noise_offset_is_one_number_per_channel(noise):
    moved = with_offset(noise, 0.1, torch.Generator().manual_seed(7)) - noise
    assert torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-6)
    drawn = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(moved[:, :, :1, :1], 0.1 * drawn, rtol=1e-4, atol=1e-6)
    assert math.isclose(with_offset(noise, 0.0, torch.Generator()).sum(), noise.sum())
