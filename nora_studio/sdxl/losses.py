"""Losses as pure functions of tensors."""

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
    """Return the denoiser's target: the noise, or v = sqrt(a) eps - sqrt(1 - a) x (2202.00512)."""
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
    """Return loss weights min(SNR, gamma) / SNR for noise prediction, / (SNR + 1) for v.

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
    """Return loss weights 1 / sqrt(SNR) for noise prediction, which weight errors of the image.

    Source: Yu et al., Debias the Training of Diffusion Models, arXiv 2310.08442. For v the weight
    is sqrt(SNR) / (SNR + 1), the same for an error of the clean image. The SNR is clamped at
    `largest_snr`, which concerns the first timesteps, where images are nearly clean.
    """
    signal = alphas_cumprod[timesteps]
    snr = (signal / (1 - signal)).clamp(max=largest_snr)
    return snr.sqrt() / (snr + 1) if prediction_type == "v_prediction" else snr.rsqrt()


@dataclass(frozen=True)
class EdmCoefficients:
    """EDM's preconditioning at given noise levels, each (batch, 1, 1, 1) except `weights`."""

    scale_in: Tensor
    """c_in: factor on the noisy latents for the UNet's input."""
    skip: Tensor
    """c_skip: factor on the noisy latents in the denoised ones."""
    scale_out: Tensor
    """c_out: factor on the UNet's output in the denoised ones."""
    weights: Tensor
    """(batch,): loss weights that give every noise level the same weight."""


def edm_coefficients(
    sigmas: Tensor,  # (batch,), above 0
    sigma_data: float,
    prediction_type: str,
) -> EdmCoefficients:
    """Return the preconditioning of a base of the EDM family at noise levels sigma.

    Source: Karras et al., arXiv 2206.00364, table 1 ("Ours"); for v, c_out has the opposite sign,
    as in diffusers' EDM schedulers.
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
    mask: Tensor | None = None,  # (batch, 1, height, width), 1 on average
) -> Tensor:  # scalar
    """Return the mean squared error in float32, weighted by image and by position (the mask)."""
    errors = (prediction.float() - target.float()).square()
    per_image = (errors if mask is None else errors * mask).mean(dim=(1, 2, 3))
    return (per_image if weights is None else per_image * weights).mean()
