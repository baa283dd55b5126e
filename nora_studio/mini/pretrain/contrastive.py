"""Train three text towers against one image tower: SDXL's two encoders and the scoring CLIP."""

import math
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from open_clip import CLIP
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from nora_studio.errors import StudioError
from nora_studio.mini.pretrain.architecture import (
    CLIP_CONTEXT_LENGTH,
    CLIP_IMAGE_SIZE,
    TEXT_WIDTH,
    build_clip,
    count_parameters,
)
from nora_studio.mini.pretrain.captions import CaptionIds
from nora_studio.mini.pretrain.compilation import compile_or_not, set_precision
from nora_studio.mini.pretrain.devices import move, synchronize
from nora_studio.mini.pretrain.optimization import build_optimizer, set_rate, timed_steps
from nora_studio.mini.pretrain.pictures import Pictures
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.mini.pretrain.vae import decode_latents, encode_latents
from nora_studio.mini.world import (
    ACCESSORIES,
    CLASSES,
    COLORS,
    EMBLEMS,
    PATTERNS,
    PLACES,
    STYLES,
    Scenes,
)

PEAK_RATE = 1e-3
ATTRIBUTE_WEIGHT = 0.5
FULL_CAPTION_SHARE = 0.5
LARGEST_SCALE = 100.0
RECONSTRUCTED_SHARE = 8
"""One picture in this many passes through the VAE first, as generated images always do."""

ATTRIBUTES: dict[str, int] = {
    "kind": len(CLASSES),
    "main_color": len(COLORS),
    "second_color": len(COLORS),
    "accent_color": len(COLORS),
    "pattern": len(PATTERNS),
    "accessory": len(ACCESSORIES),
    "emblem": len(EMBLEMS),
    "place": len(PLACES),
    "style": len(STYLES),
}
UNSEEN = -100
"""The target that cross-entropy ignores."""


class Towers(nn.Module):
    """All modules that the contrastive stage trains."""

    def __init__(
        self, clip: CLIP, first: CLIPTextModel, second: CLIPTextModelWithProjection
    ) -> None:
        super().__init__()
        width = int(clip.visual.output_dim)  # pyright: ignore[reportArgumentType]
        self.clip, self.first, self.second = clip, first, second
        self.first_projection = nn.Linear(TEXT_WIDTH, width, bias=False)  # discarded after training
        self.heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in ATTRIBUTES.items()})

    def encode_texts(self, ids: Tensor) -> list[Tensor]:  # three of (batch, embed_dim)
        """Encode token ids with all three text towers."""
        return [
            self.clip.encode_text(ids),
            self.first_projection(self.first(ids).pooler_output),
            self.second(ids).text_embeds,
        ]


def attribute_targets(scenes: Scenes) -> dict[str, Tensor]:
    """Return the class indices to predict for each scene; `UNSEEN` where it does not show them."""
    targets = {name: getattr(scenes, name).clone() for name in ATTRIBUTES}
    has_accent = (scenes.accessory != ACCESSORIES.index("none")) | (
        scenes.emblem != EMBLEMS.index("none")
    )
    targets["second_color"][scenes.pattern == PATTERNS.index("plain")] = UNSEEN
    targets["accent_color"][~has_accent] = UNSEEN
    for name in ("main_color", "second_color", "accent_color"):
        targets[name][scenes.style != STYLES.index("photo")] = UNSEEN
    return targets


def train_contrastive(
    towers: Towers,
    pictures: Pictures,
    captions: CaptionIds,
    vae: AutoencoderKL,
    device: str,
    progress: Progress,
    seconds: float,
    reserve_seconds: float,
    batch: int,
    warm_up: BaseProcess | None,
) -> None:
    """Train all towers together; the last pictures, up to 1024, are held out for evaluation."""
    towers.to(device).train()
    small = shrink_pictures(pictures.pixels, vae)
    targets = {k: v.to(device) for k, v in attribute_targets(pictures.scenes).items()}
    held_out = min(1024, len(pictures) // 4)
    training = len(pictures) - held_out
    check_lengths(captions)
    visual = compile_or_not(towers.clip.visual, warm_up, progress)
    weights = [w for w in towers.parameters() if w.requires_grad]
    optimizer = build_optimizer(weights, PEAK_RATE, 0.98, 0.02)
    start, step = progress.seconds(), 0
    for step, share in timed_steps(progress, seconds, reserve_seconds, device):
        set_rate(optimizer, PEAK_RATE, share)
        index = torch.randint(training, (batch,), device=device)
        ids = choose_captions(captions, index)
        images = image_features(visual, vary_pictures(small[index]))
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            texts = towers.encode_texts(ids)
        scale = towers.clip.logit_scale.exp().clamp(max=LARGEST_SCALE)
        matching = torch.stack([contrastive_loss(images, t, scale) for t in texts]).mean()
        naming = attribute_loss(towers, images, targets, index)
        loss = matching + ATTRIBUTE_WEIGHT * naming
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if progress.is_due():
            losses = f"matching {matching.item():.3f}, naming {naming.item():.3f}"
            progress.say(f"CLIP step {step}: {losses}, scale {scale.item():.1f}")
    synchronize(device)
    towers.eval().requires_grad_(False)
    towers.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
    spent = round(progress.seconds() - start, 1)
    facts = {"steps": step, "batch": batch, "seconds": spent, "held_out": held_out}
    sizes = {"clip": towers.clip, "text_encoder": towers.first, "text_encoder_2": towers.second}
    facts["parameters"] = {name: count_parameters(part) for name, part in sizes.items()}
    index = torch.arange(training, len(pictures), device=device)
    ids = captions.full[index, :CLIP_CONTEXT_LENGTH].long()
    facts |= measure_towers(towers, small[index], ids, targets, index)
    progress.note("contrastive", **facts)
    progress.say(f"CLIP done: {facts}")


def shrink_pictures(pixels: Tensor, vae: AutoencoderKL) -> Tensor:  # (count, 3, 128, 128) uint8
    """Scale pictures to the image tower's size, a share of them after the VAE."""
    parts = []
    for number, part in enumerate(pixels.split(500)):
        if number % RECONSTRUCTED_SHARE == 1:
            decoded = [decode_latents(vae, encode_latents(vae, few)) for few in part.split(100)]
            parts.append((resize_pictures(torch.cat(decoded)) * 255).round().byte())
        else:
            parts.append((resize_pictures(part.float() / 255) * 255).round().byte())
    return torch.cat(parts)


def resize_pictures(pictures: Tensor) -> Tensor:  # (batch, 3, size, size) in [0, 1] -> 128
    """Resize as open_clip's preprocessing does: bicubic, antialiased."""
    size = (CLIP_IMAGE_SIZE, CLIP_IMAGE_SIZE)
    return F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)


def vary_pictures(pixels: Tensor) -> Tensor:  # uint8 -> [-1, 1], each varied a little
    """Mirror half of the pictures, shift brightness and contrast a little, and add faint noise."""
    pictures = pixels.float() / 127.5 - 1
    lot = torch.rand(len(pictures), 4, 1, 1, 1, device=pixels.device)
    pictures = torch.where(lot[:, 0] < 0.5, pictures.flip(-1), pictures)
    gain, shift = 1 + 0.16 * (lot[:, 1] - 0.5), 0.12 * (lot[:, 2] - 0.5)
    return pictures * gain + shift + 0.05 * lot[:, 3] * torch.randn_like(pictures)


def choose_captions(
    captions: CaptionIds, index: Tensor
) -> Tensor:  # (batch, CLIP_CONTEXT_LENGTH) int64: only padding is cut off
    """Choose one caption of each picture at random, full or partial."""
    batch, per_scene, device = len(index), captions.partial.shape[1], index.device
    number = torch.randint(per_scene, (batch,), device=device)
    is_full = torch.rand(batch, 1, device=device) < FULL_CAPTION_SHARE
    ids = torch.where(is_full, captions.full[index], captions.partial[index, number])
    return ids[:, :CLIP_CONTEXT_LENGTH].long()


def check_lengths(captions: CaptionIds) -> None:
    """Refuse captions that are longer than the scoring model's context."""
    end = captions.full.max()
    longest = 1 + max(int((ids != end).sum(-1).max()) for ids in (captions.full, captions.partial))
    if longest > CLIP_CONTEXT_LENGTH:
        raise StudioError(
            f"expected captions of at most {CLIP_CONTEXT_LENGTH} tokens; the longest has "
            f"{longest}. Raise CLIP_CONTEXT_LENGTH in pretrain/architecture.py."
        )


def image_features(
    visual: Callable[[Tensor], Tensor], pictures: Tensor
) -> Tensor:  # (batch, embed_dim)
    """Encode pictures with the image tower, in bfloat16."""
    with torch.autocast(pictures.device.type, torch.bfloat16):
        return visual(pictures).float()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's symmetric loss (arXiv:2103.00020) over (batch, embed_dim) features."""
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts.float(), dim=-1).t()
    own = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2


def attribute_loss(
    towers: Towers, images: Tensor, targets: dict[str, Tensor], index: Tensor
) -> Tensor:
    """Return the mean loss of the attribute heads, which keeps fine detail in the features."""
    total = images.new_zeros(())
    for name, head in towers.heads.items():
        target = targets[name][index]
        losses = F.cross_entropy(head(images), target, ignore_index=UNSEEN, reduction="sum")
        total = total + losses / (target != UNSEEN).sum().clamp_min(1)
    return total / len(towers.heads)


@torch.no_grad()
def measure_towers(
    towers: Towers,
    small: Tensor,  # (held_out, 3, 128, 128) uint8
    ids: Tensor,  # (held_out, CLIP_CONTEXT_LENGTH)
    targets: dict[str, Tensor],
    index: Tensor,  # (held_out,): rows of `targets`
) -> dict[str, dict[str, float]]:
    """Measure the retrieval of held-out pictures by full captions, and the heads' accuracy."""
    features = [towers.clip.visual(part.float() / 127.5 - 1) for part in small.split(256)]
    images = torch.cat(features)
    names = ("clip", "text_encoder", "text_encoder_2")
    retrieval, own = {}, torch.arange(len(images), device=images.device)
    for name, texts in zip(names, towers.encode_texts(ids), strict=True):
        ranked = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()
        hits = ranked.topk(min(5, len(own)), dim=1).indices == own[:, None]
        retrieval[f"{name}_r1"] = round(hits[:, 0].float().mean().item(), 4)
        retrieval[f"{name}_r5"] = round(hits.any(1).float().mean().item(), 4)
    accuracy = {}
    for name, head in towers.heads.items():
        target = targets[name][index]
        right = (head(images).argmax(1) == target)[target != UNSEEN]
        accuracy[name] = round(right.float().mean().item(), 4)
    return {"retrieval": retrieval, "attribute_accuracy": accuracy}


def warm_up_clip(batch: int) -> None:
    """Compile the image tower on a GPU, in a child process."""
    set_precision(0)
    visual = move(build_clip(1000).visual, "cuda").train()
    compiled = torch.compile(visual)
    for _ in range(2):
        pictures = torch.rand(batch, 3, CLIP_IMAGE_SIZE, CLIP_IMAGE_SIZE, device="cuda")
        image_features(compiled, pictures).sum().backward()
    torch.cuda.synchronize()
