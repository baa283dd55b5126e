"""Losses as functions of tensors: no model, no file, no flag in sight."""

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
