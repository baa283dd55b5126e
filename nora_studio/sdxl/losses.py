"""Losses as functions of tensors: no model, no file, no flag in sight."""

from dataclasses import dataclass

from torch import Tensor


def noisy_latents(
    latents: Tensor,  # (batch, channels, height, width)
    noise: Tensor,  # like latents
    alphas_cumprod: Tensor,  # (train_timesteps,)
    timesteps: Tensor,  # (batch,), integers
) -> Tensor:
    """Diffuse latents to their timesteps: sqrt(a) x + sqrt(1 - a) eps (DDPM, eq. 4)."""
    signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt() * latents + (1 - signal).sqrt() * noise


def denoising_target(
    latents: Tensor,
    noise: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    prediction_type: str,
) -> Tensor:
    """What the denoiser should say: the noise, or v = sqrt(a) eps - sqrt(1 - a) x (2202.00512)."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        signal = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return signal.sqrt() * noise - (1 - signal).sqrt() * latents
    raise ValueError(
        f"prediction_type must be 'epsilon' or 'v_prediction'; got {prediction_type!r}."
    )


def min_snr_weights(
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    gamma: float,
    prediction_type: str,
) -> Tensor:  # (batch,)
    """Loss weights min(SNR, gamma) / SNR for noise prediction, / (SNR + 1) for v.

    Source: Hang et al., Min-SNR weighting, arXiv 2303.09556, eq. 6 and section 3.4.
    """
    signal = alphas_cumprod[timesteps]
    snr = signal / (1 - signal)
    divisor = snr + 1 if prediction_type == "v_prediction" else snr
    return snr.clamp(max=gamma) / divisor


def debiased_weights(
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    prediction_type: str,
    largest_snr: float = 1000.0,
) -> Tensor:  # (batch,)
    """Loss weights 1 / sqrt(SNR) for noise prediction, so that faults of the drawn picture count.

    Source: Yu et al., Debias the Training of Diffusion Models, arXiv 2310.08442. For v it is
    sqrt(SNR) / (SNR + 1), the same weight on an error of the clean picture. The SNR of the first
    timesteps is cut at `largest_snr`, where a picture is clean.
    """
    signal = alphas_cumprod[timesteps]
    snr = (signal / (1 - signal)).clamp(max=largest_snr)
    return snr.sqrt() / (snr + 1) if prediction_type == "v_prediction" else snr.rsqrt()


@dataclass(frozen=True)
class EdmCoefficients:
    """EDM's preconditioning at some noise levels, each (batch, 1, 1, 1) but `weights`."""

    scale_in: Tensor
    """c_in: the noisy latents times this are what the UNet sees."""
    skip: Tensor
    """c_skip: share of the noisy latents in the denoised ones."""
    scale_out: Tensor
    """c_out: what the UNet says, times this, is the rest."""
    weights: Tensor
    """(batch,): the loss weight that gives every noise level the same say."""


def edm_coefficients(
    sigmas: Tensor,  # (batch,), above 0
    sigma_data: float,
    prediction_type: str,
) -> EdmCoefficients:
    """How a base of the EDM family is asked at noise level sigma.

    Source: Karras et al., arXiv 2206.00364, table 1 ("Ours"); for v, c_out has the other sign, as
    in diffusers' EDM schedulers.
    """
    sigma = sigmas.view(-1, 1, 1, 1)
    total = sigma**2 + sigma_data**2
    out = sigma * sigma_data / total.sqrt()
    return EdmCoefficients(
        scale_in=total.rsqrt(),
        skip=sigma_data**2 / total,
        scale_out=-out if prediction_type == "v_prediction" else out,
        weights=(total / (sigma * sigma_data) ** 2).flatten(),
    )


def denoising_loss(
    prediction: Tensor,  # (batch, channels, height, width)
    target: Tensor,  # like prediction
    weights: Tensor | None = None,  # (batch,)
    area_weights: Tensor | None = None,  # (batch, 1, height, width), 1 on average
) -> Tensor:  # scalar
    """Mean squared error in float32, each picture times its weight, each place times its own."""
    errors = (prediction.float() - target.float()).square()
    per_picture = (errors if area_weights is None else errors * area_weights).mean(dim=(1, 2, 3))
    return (per_picture if weights is None else per_picture * weights).mean()
