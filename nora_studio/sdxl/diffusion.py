"""The diffusion process that a base was trained for: the UNet's input, and the loss."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.errors import StudioError
from nora_studio.sdxl.losses import (
    debiased_weights,
    denoising_loss,
    denoising_target,
    edm_coefficients,
    min_snr_weights,
    noisy_latents,
)

Weighting = Literal["none", "min-snr", "debiased"]


@dataclass(frozen=True)
class Denoising:
    """Noise levels by timestep, from clean to noisy, with the inputs and losses for them.

    No method synchronises with the device, and shapes depend only on the batch.
    """

    levels: Tensor  # (length,)
    """alphas_cumprod of a DDPM base; sigma of an EDM base."""
    prediction_type: str
    weighting: Weighting = "none"
    snr_gamma: float = 5.0
    sigma_data: float | None = None
    """EDM's standard deviation of the data; None for a DDPM base."""

    @classmethod
    def of(
        cls,
        pipe: StableDiffusionXLPipeline,
        weighting: Weighting = "none",
        snr_gamma: float = 5.0,
    ) -> "Denoising":
        """Return the process of a pipeline, according to its scheduler.

        Raises:
            StudioError: the base predicts neither noise nor v, or has its own weighting.
        """
        config: Any = pipe.scheduler.config
        name, kind = type(pipe.scheduler).__name__, config.get("prediction_type")
        is_edm = name.startswith("EDM")
        if kind not in ("epsilon", "v_prediction") or not (is_edm or "beta_schedule" in config):
            raise StudioError(
                "--model: expected a base with a beta_schedule that predicts epsilon or "
                f"v_prediction; its scheduler, {name}, predicts {kind!r}. Use another base."
            )
        if is_edm:
            if weighting != "none":
                raise StudioError(
                    f"--weighting {weighting}: this base's scheduler is of the EDM family, which "
                    "weights noise levels itself. Leave --weighting out."
                )
            # The last level in its table is only for the last step of sampling.
            sigmas = type(pipe.scheduler).from_config(config).sigmas[:-1]
            return cls(sigmas.flip(0).to(pipe.device), kind, sigma_data=config["sigma_data"])
        scheduler: Any = DDPMScheduler.from_config(config)
        return cls(scheduler.alphas_cumprod.to(pipe.device), kind, weighting, snr_gamma)

    @property
    def length(self) -> int:
        """Number of training timesteps."""
        return len(self.levels)

    def timesteps_below(self, limit: int) -> int:
        """Return how many timesteps a run trains on, from the first; all if `limit` is 0.

        Raises:
            StudioError: the limit is beyond the schedule.
        """
        if not 0 <= limit <= self.length:
            raise StudioError(f"--max-timestep: expected 1 to {self.length}; got {limit}.")
        return limit if limit else self.length

    def model_input(
        self,
        latents: Tensor,  # (batch, channels, height, width)
        noise: Tensor,  # like latents
        timesteps: Tensor,  # (batch,), integers
    ) -> tuple[Tensor, Tensor]:  # like latents, (batch,)
        """Return the UNet's input: noised latents, and the timesteps or EDM's noise levels."""
        if self.sigma_data is None:
            return noisy_latents(latents, noise, self.levels, timesteps), timesteps
        sigmas = self.levels[timesteps]
        noisy = latents + sigmas.view(-1, 1, 1, 1) * noise
        scale = edm_coefficients(sigmas, self.sigma_data, self.prediction_type).scale_in
        return scale * noisy, 0.25 * sigmas.log()

    def loss(
        self,
        prediction: Tensor,  # the UNet's output, like latents
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        importance: Tensor | None = None,  # (batch,)
        mask: Tensor | None = None,  # (batch, 1, height, width), 1 on average
    ) -> Tensor:  # scalar, float32
        """Return the loss of the UNet's prediction, averaged over the batch.

        Args:
            importance: Weight of each image.
            mask: Weight of each latent position.
        """
        weights = importance
        if self.sigma_data is not None:
            sigmas = self.levels[timesteps]
            edm = edm_coefficients(sigmas, self.sigma_data, self.prediction_type)
            noisy = latents + sigmas.view(-1, 1, 1, 1) * noise
            prediction, target = edm.skip * noisy + edm.scale_out * prediction.float(), latents
            weights = _product(edm.weights, importance)
        else:
            kind = self.prediction_type
            target = denoising_target(latents, noise, self.levels, timesteps, kind)
            if self.weighting == "min-snr":
                own = min_snr_weights(self.levels, timesteps, self.snr_gamma, kind)
                weights = _product(own, importance)
            elif self.weighting == "debiased":
                weights = _product(debiased_weights(self.levels, timesteps, kind), importance)
        return denoising_loss(prediction, target, weights, mask)


def _product(weights: Tensor, importance: Tensor | None) -> Tensor:
    return weights if importance is None else weights * importance


def with_offset(
    noise: Tensor,  # (batch, channels, height, width)
    amount: float,
    generator: torch.Generator,
) -> Tensor:
    """Shift each channel of each image's noise by a random constant, to train brightness as well.

    Source: Guttenberg, Diffusion with Offset Noise (2023): ordinary noise hardly changes an image's
    mean, so that a base does not learn to generate very dark or bright images.
    """
    if amount == 0:
        return noise
    shape = (*noise.shape[:2], 1, 1)
    return noise + amount * torch.randn(shape, generator=generator)


def encode_tokens(
    part: str,
    encoder: nn.Module,
    ids: Tensor,  # (prompts, tokens)
) -> tuple[Tensor, Tensor | None]:  # (prompts, tokens, width), (prompts, projection) or None
    """Return one encoder's part of SDXL's conditioning: penultimate layer, and pooled output.

    Source: SDXL, arXiv 2307.01952, section 2.1; as `StableDiffusionXLPipeline.encode_prompt`.
    """
    output = encoder(ids, output_hidden_states=True)
    pooled = output.text_embeds if part == "text_encoder_2" else None
    return output.hidden_states[-2], pooled
