"""Encode pictures and prompts once; what is read back is what the frozen models would say."""

from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.data.images import Photo
from nora_studio.errors import StudioError


@dataclass(frozen=True)
class LatentCache:
    """The VAE's posterior of every photo, scaled as the UNet expects, on the CPU in float32."""

    mean: Tensor  # (photos, channels, height, width)
    std: Tensor  # like mean
    time_ids: Tensor  # (photos, 6)

    def rows(self, which: slice) -> "LatentCache":
        """Some of the photos."""
        return LatentCache(self.mean[which], self.std[which], self.time_ids[which])


@torch.no_grad()
def encode_photos(pipe: StableDiffusionXLPipeline, photos: list[Photo]) -> LatentCache:
    """Encode photos one at a time, in float32 whatever the VAE is stored in.

    SDXL's own VAE overflows in float16, so its weights are widened for this and put back after.

    Raises:
        StudioError: a latent is not finite.
    """
    vae = pipe.vae
    stored = vae.dtype
    nn.Module.to(vae, torch.float32)  # diffusers' own `to` warns of casts that are undone below
    means, stds = [], []
    for photo in photos:
        posterior = vae.encode(photo.pixels[None].to(vae.device)).latent_dist
        if not torch.isfinite(posterior.mean).all():
            raise StudioError(
                f"{photo.path}: the VAE gives NaN or infinity for it. Its weights are probably "
                "damaged or an fp16-only copy; use the model's float32 or fixed-fp16 VAE."
            )
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
    nn.Module.to(vae, stored)
    scale, shift = vae.config["scaling_factor"], vae.config.get("shift_factor") or 0.0
    return LatentCache(
        mean=(torch.cat(means) - shift) * scale,
        std=torch.cat(stds) * scale,
        time_ids=torch.tensor([photo.time_ids for photo in photos]),
    )


def tokenize(pipe: StableDiffusionXLPipeline, prompt: str) -> dict[str, Tensor]:
    """A prompt's token ids for each text encoder, (1, tokens), padded and cut as SDXL does."""
    ids = {}
    for part, tokenizer in (
        ("text_encoder", pipe.tokenizer),
        ("text_encoder_2", pipe.tokenizer_2),
    ):
        ids[part] = tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
    return ids


def encode_tokens(
    part: str,
    encoder: nn.Module,
    ids: Tensor,  # (prompts, tokens)
) -> tuple[Tensor, Tensor | None]:  # (prompts, tokens, width), (prompts, projection) or None
    """One encoder's share of SDXL's conditioning: the penultimate layer, and the second's pooled.

    Source: SDXL, arXiv 2307.01952, section 2.1; as `StableDiffusionXLPipeline.encode_prompt`.
    """
    output = encoder(ids, output_hidden_states=True)
    pooled = output.text_embeds if part == "text_encoder_2" else None
    return output.hidden_states[-2], pooled
