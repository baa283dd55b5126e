"""Encode pictures and prompts once; what is read back is what the frozen models would say."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.errors import StudioError
from nora_studio.photos.views import Photo
from nora_studio.runs.disk_cache import TensorCache, default_cache_folder, weights_digest
from nora_studio.sdxl.diffusion import encode_tokens

RECIPE = f"1 torch {torch.__version__}"
"""Part of every key: another number where the same input would be encoded otherwise."""


@dataclass(frozen=True)
class LatentCache:
    """The VAE's posteriors of pictures of one size, scaled as the UNet expects, float32 on the CPU.

    A row is one view of a photo; where `views` is None, row n is all that there is of photo n.
    """

    mean: Tensor  # (rows, channels, height, width)
    std: Tensor  # like mean
    time_ids: Tensor  # (rows, 6)
    weights: Tensor | None = None  # (rows, 1, height, width): of the loss, 1 on average
    views: Tensor | None = None  # (rows, 3): number of the photo, of its crop, and 1 if mirrored


@dataclass(frozen=True)
class Stores:
    """Where encoded pictures and prompts are kept between runs."""

    latents: TensorCache
    text: TensorCache

    @classmethod
    def default(cls) -> "Stores":
        """In the user's cache folder."""
        return cls(*(TensorCache(default_cache_folder(kind)) for kind in ("latents", "text")))


@torch.no_grad()
def encode_photos(
    pipe: StableDiffusionXLPipeline,
    photos: Iterable[Photo],
    store: TensorCache | None = None,
    device: torch.device | None = None,
) -> list[LatentCache]:
    """Encode pictures one at a time, in float32 whatever the VAE is stored in.

    SDXL's own VAE overflows in float16, so its weights are widened for this and put back after.
    What `store` holds already is read from there; if that is all, the VAE is never touched.

    Args:
        device: Where the VAE works; it is put back to where it was. None: where it is.

    Returns:
        One cache for each size of picture, smallest first.

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
            row = _Row(*encoder.posterior(photo), photo.time_ids, photo.weights, view)
            groups.setdefault(photo.frame.size, []).append(row)
    finally:
        encoder.put_back()
    if store is not None:
        store.prune()
    scale, shift = _normalisation(pipe)
    return [
        LatentCache(
            mean=(torch.cat([row.mean for row in rows]) - shift) * scale,
            std=torch.cat([row.std for row in rows]) * scale,
            time_ids=torch.tensor([row.time_ids for row in rows]),
            weights=torch.stack([row.weights for row in rows]) if has_masks else None,
            views=torch.tensor([row.view for row in rows]),
        )
        for _, rows in sorted(groups.items())
    ]


def _normalisation(pipe: StableDiffusionXLPipeline) -> tuple[Tensor, Tensor]:
    """What latents are multiplied by after what is subtracted, each (1, channels or 1, 1, 1).

    SDXL scales by one number; some of its kin (Playground 2.5) by each channel's own statistics.
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
    """What is kept of one picture once it is encoded."""

    mean: Tensor  # (1, channels, height, width)
    std: Tensor
    time_ids: list[float]
    weights: Tensor  # (1, height, width)
    view: list[int]


class _Encoder:
    """The VAE, woken for the first picture that is not kept yet."""

    def __init__(
        self,
        pipe: StableDiffusionXLPipeline,
        store: TensorCache | None,
        device: torch.device | None,
    ) -> None:
        self.vae, self.store = pipe.vae, store
        self.home, self.dtype = pipe.vae.device, pipe.vae.dtype
        self.device = device or self.home
        self.is_awake = False
        self.digest = weights_digest(pipe.vae) if store is not None else ""

    def posterior(self, photo: Photo) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one picture, unscaled, on the CPU in float32."""
        key = f"{RECIPE} {self.device.type} {self.digest} {photo.key}"
        kept = None if self.store is None else self.store.read(key)
        if kept is not None and kept.keys() == {"mean", "std"}:
            return kept["mean"], kept["std"]
        self._wake()
        encoded = self.vae.encode(photo.pixels[None].to(self.device)).latent_dist
        if not torch.isfinite(encoded.mean).all():
            raise StudioError(
                f"{photo.path}: the VAE gives NaN or infinity for it. Its weights are probably "
                "damaged or an fp16-only copy; use the model's float32 or fixed-fp16 VAE."
            )
        mean, std = encoded.mean.float().cpu(), encoded.std.float().cpu()
        if self.store is not None:
            self.store.write(key, {"mean": mean, "std": std})
        return mean, std

    def _wake(self) -> None:
        if not self.is_awake:
            # diffusers' own `to` warns of casts that are undone afterwards.
            nn.Module.to(self.vae, device=self.device, dtype=torch.float32)
            self.is_awake = True

    def put_back(self) -> None:
        """Give the VAE its own dtype and place again."""
        if self.is_awake:
            nn.Module.to(self.vae, device=self.home, dtype=self.dtype)


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


def words_unread(pipe: StableDiffusionXLPipeline, prompt: str) -> str:
    """The end of a prompt that SDXL never reads, as it is too long; empty where all is read."""
    ends = []
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids[1:-1]
        room = tokenizer.model_max_length - 2  # without the marks of start and end
        # Tokenizers with new words leave the marks of words' ends in what they decode.
        ends.append(" ".join(tokenizer.decode(ids[room:]).replace("</w>", " ").split()))
    return max(ends, key=len)


@torch.no_grad()
def encode_tokens_kept(
    part: str,
    encoder: nn.Module,
    ids: Tensor,  # (prompts, tokens), on the CPU
    store: TensorCache | None,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """As `encode_tokens` on `device`, through a store; the encoder rests where it was afterwards.

    Prompts go through the encoder one by one, so that none depends on which others are asked for.
    """
    weight = next(encoder.parameters())
    home = weight.device
    digest = weights_digest(encoder) if store is not None else ""
    rows: list[tuple[Tensor, Tensor | None]] = []
    for row in ids.split(1):
        key = f"{RECIPE} {device.type} {digest} {part} {row.tolist()}"
        kept = None if store is None else store.read(key)
        if kept is not None and "hidden" in kept:
            rows.append((kept["hidden"].to(device), _placed(kept.get("pooled"), device)))
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


def _placed(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)
