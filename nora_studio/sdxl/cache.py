"""Encode images and prompts once; the results are cached on disk for later runs."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.errors import StudioError
from nora_studio.photos.views import TrainingImage
from nora_studio.runs.disk_cache import TensorCache, default_cache_folder, weights_digest
from nora_studio.sdxl.diffusion import encode_tokens

RECIPE = f"1 torch {torch.__version__}"
"""Part of every key; the number must change whenever the same input is encoded differently."""


@dataclass(frozen=True)
class LatentCache:
    """The VAE's posteriors of images of one size, scaled as the UNet expects, float32 on the CPU.

    A row is one view of a photo; if `views` is None, row n is the only view of photo n.
    """

    mean: Tensor  # (rows, channels, height, width)
    std: Tensor  # like mean
    time_ids: Tensor  # (rows, 6)
    mask: Tensor | None = None  # (rows, 1, height, width): weights of the loss, 1 on average
    views: Tensor | None = None  # (rows, 3): number of the photo, of its crop, and 1 if mirrored


@dataclass(frozen=True)
class Stores:
    """The caches of encoded images and prompts between runs."""

    latents: TensorCache
    text: TensorCache

    @classmethod
    def default(cls) -> "Stores":
        """Return stores in the user's cache folder."""
        return cls(*(TensorCache(default_cache_folder(kind)) for kind in ("latents", "text")))


@torch.no_grad()
def encode_photos(
    pipe: StableDiffusionXLPipeline,
    photos: Iterable[TrainingImage],
    store: TensorCache | None = None,
    device: torch.device | None = None,
) -> list[LatentCache]:
    """Encode images one at a time, in float32 whatever the VAE's dtype.

    SDXL's own VAE overflows in float16, so its weights are converted to float32 and back. Images
    that `store` has are read from it; the VAE is not used if it has all of them.

    Args:
        device: Device for the VAE, which is moved back afterwards. None: where it is.

    Returns:
        One cache for each image size, smallest first.

    Raises:
        StudioError: a latent is not finite.
    """
    encoder = _Encoder(pipe, store, device)
    groups: dict[tuple[int, int], list[_Row]] = {}
    has_masks = False
    try:
        for photo in photos:
            has_masks = has_masks or photo.mask is not None
            view = [photo.index, photo.crop, int(photo.frame.mirrored)]
            row = _Row(*encoder.posterior(photo), photo.time_ids, photo.loss_mask, view)
            groups.setdefault(photo.frame.size, []).append(row)
    finally:
        encoder.restore_vae()
    if store is not None:
        store.prune()
    scale, shift = _normalisation(pipe)
    return [
        LatentCache(
            mean=(torch.cat([row.mean for row in rows]) - shift) * scale,
            std=torch.cat([row.std for row in rows]) * scale,
            time_ids=torch.tensor([row.time_ids for row in rows]),
            mask=torch.stack([row.mask for row in rows]) if has_masks else None,
            views=torch.tensor([row.view for row in rows]),
        )
        for _, rows in sorted(groups.items())
    ]


def _normalisation(pipe: StableDiffusionXLPipeline) -> tuple[Tensor, Tensor]:
    """Return the factor of latents and the shift to subtract first, (1, channels or 1, 1, 1).

    SDXL scales by one number; some related models (Playground 2.5) by statistics of each channel.
    """
    config = pipe.vae.config
    scale = torch.tensor(config["scaling_factor"])
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        shift = torch.tensor(mean)
        scale = scale / torch.tensor(std)
    else:
        shift = torch.tensor(config.get("shift_factor") or 0.0)
    return scale.view(1, -1, 1, 1), shift.view(1, -1, 1, 1)


@dataclass(frozen=True)
class _Row:
    """The encoded data of one image."""

    mean: Tensor  # (1, channels, height, width)
    std: Tensor
    time_ids: list[float]
    mask: Tensor  # (1, height, width)
    view: list[int]


class _Encoder:
    """An encoder of images; it moves the VAE to its device for the first one that is not stored."""

    def __init__(
        self,
        pipe: StableDiffusionXLPipeline,
        store: TensorCache | None,
        device: torch.device | None,
    ) -> None:
        self.vae, self.store = pipe.vae, store
        self.home, self.dtype = pipe.vae.device, pipe.vae.dtype
        self.device = device or self.home
        self.is_on_device = False
        self.digest = weights_digest(pipe.vae) if store is not None else ""

    def posterior(self, photo: TrainingImage) -> tuple[Tensor, Tensor]:
        """Return the mean and standard deviation of one image, unscaled, on the CPU in float32."""
        key = f"{RECIPE} {self.device.type} {self.digest} {photo.key}"
        kept = None if self.store is None else self.store.read(key)
        if kept is not None and kept.keys() == {"mean", "std"}:
            return kept["mean"], kept["std"]
        self._to_device()
        encoded = self.vae.encode(photo.pixels[None].to(self.device)).latent_dist
        if not torch.isfinite(encoded.mean).all():
            raise StudioError(
                f"{photo.path}: the VAE encodes it as NaN or infinity, so its weights are probably "
                "damaged or only valid in fp16. Use the model's float32 or fixed-fp16 VAE."
            )
        mean, std = encoded.mean.float().cpu(), encoded.std.float().cpu()
        if self.store is not None:
            self.store.write(key, {"mean": mean, "std": std})
        return mean, std

    def _to_device(self) -> None:
        if not self.is_on_device:
            # diffusers' own `to` warns of this cast, which is undone afterwards.
            nn.Module.to(self.vae, device=self.device, dtype=torch.float32)
            self.is_on_device = True

    def restore_vae(self) -> None:
        """Restore the VAE's dtype and device."""
        if self.is_on_device:
            nn.Module.to(self.vae, device=self.home, dtype=self.dtype)


def tokenize(pipe: StableDiffusionXLPipeline, prompt: str) -> dict[str, Tensor]:
    """Return a prompt's token ids for each text encoder, (1, tokens), padded and cut as in SDXL."""
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


def unread_words(pipe: StableDiffusionXLPipeline, prompt: str) -> str:
    """Return the end of a prompt that is too long for SDXL to read; "" if all is read."""
    ends = []
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
        limit = tokenizer.model_max_length - 2  # Without the tokens for start and end.
        # Tokenizers with new words do not remove the marks of word ends when they decode.
        ends.append(" ".join(tokenizer.decode(ids[limit:]).replace("</w>", " ").split()))
    return max(ends, key=len)


@torch.no_grad()
def encode_tokens_cached(
    part: str,
    encoder: nn.Module,
    ids: Tensor,  # (prompts, tokens), on the CPU
    store: TensorCache | None,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Encode prompts as `encode_tokens` does, on `device`, through a store.

    The encoder is moved back afterwards. Prompts are encoded one by one, so that the result for
    one does not depend on the others.
    """
    weight = next(encoder.parameters())
    home = weight.device
    digest = weights_digest(encoder) if store is not None else ""
    rows: list[tuple[Tensor, Tensor | None]] = []
    for row in ids.split(1):
        key = f"{RECIPE} {device.type} {digest} {part} {row.tolist()}"
        kept = None if store is None else store.read(key)
        if kept is not None and "hidden" in kept:
            rows.append((kept["hidden"].to(device), _move(kept.get("pooled"), device)))
            continue
        hidden, pooled = encode_tokens(part, encoder.to(device), row.to(device))
        rows.append((hidden, pooled))
        if store is not None:
            parts = {"hidden": hidden} | ({} if pooled is None else {"pooled": pooled})
            store.write(key, parts)
    encoder.to(home)
    if store is not None:
        store.prune()
    pooled_rows = [pooled for _, pooled in rows if pooled is not None]
    return torch.cat([hidden for hidden, _ in rows]), torch.cat(
        pooled_rows
    ) if pooled_rows else None


def _move(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
