"""Train the UNet on cached latents and prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nora_studio.mini.pretrain.architecture import (
    CONTEXT_WIDTH,
    LATENT_CHANNELS,
    LATENT_SIZE,
    POOLED_WIDTH,
    build_scheduler,
    build_unet,
    count_parameters,
    encode_text,
)
from nora_studio.mini.pretrain.captions import CaptionIds
from nora_studio.mini.pretrain.compilation import compile_or_not, set_precision
from nora_studio.mini.pretrain.devices import move, synchronize
from nora_studio.mini.pretrain.optimization import (
    MovingAverage,
    build_optimizer,
    set_rate,
    timed_steps,
)
from nora_studio.mini.pretrain.pictures import draw_chunks
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.mini.pretrain.tokenizer import CONTEXT_LENGTH, token_ids
from nora_studio.mini.pretrain.vae import encode_latents

FRESH_RATE = 7e-4
CONTINUED_RATE = 4e-4
"""Peak learning rates: from random weights, and from trained ones."""
SNR_CAP = 5.0
EMPTY_SHARE, ZERO_SHARE = 0.05, 0.05
"""Shares of pictures with an empty prompt, and with zeros, SDXL's conditioning of one."""
TRAINING_STEPS = 1000
CHECKPOINT_SHARE = 0.6


@dataclass(frozen=True)
class LatentSet:
    """The UNet's training data, all on the device."""

    latents: Tensor
    """(count, LATENT_CHANNELS, 32, 32) float16."""
    time_ids: Tensor
    """(count, 6) float32."""
    hidden: Tensor
    """(count, captions, 77, CONTEXT_WIDTH) float16."""
    pooled: Tensor
    """(count, captions, POOLED_WIDTH) float16."""
    empty_hidden: Tensor
    """(1, 77, CONTEXT_WIDTH): the empty prompt."""
    empty_pooled: Tensor
    """(1, POOLED_WIDTH)."""


def encode_pictures(
    count: int, seed: int, vae: AutoencoderKL, device: str, progress: Progress
) -> tuple[Tensor, Tensor]:  # latents, time ids
    """Render the pictures and encode each chunk at once, so that all pixels are never in memory."""
    shape = (count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)
    latents = torch.empty(shape, dtype=torch.float16, device=device)
    time_ids = torch.empty(count, 6, device=device)
    for chunk in draw_chunks(count, seed, device, progress):
        rows = slice(chunk.start, chunk.start + len(chunk.pixels))
        parts = [encode_latents(vae, part).half() for part in chunk.pixels.split(250)]
        latents[rows], time_ids[rows] = torch.cat(parts), chunk.time_ids
    return latents, time_ids


@torch.no_grad()
def encode_captions(
    captions: CaptionIds,
    tokenizer: CLIPTokenizer,
    first: CLIPTextModel,
    second: CLIPTextModelWithProjection,
    latents: Tensor,
    time_ids: Tensor,
) -> LatentSet:
    """Encode every caption, and the empty one."""
    count, per_scene, _ = captions.partial.shape
    device = latents.device
    hidden = torch.empty(
        (count, per_scene, CONTEXT_LENGTH, CONTEXT_WIDTH), dtype=torch.float16, device=device
    )
    pooled = torch.empty((count, per_scene, POOLED_WIDTH), dtype=torch.float16, device=device)
    for start in range(0, count, 1000):
        ids = captions.partial[start : start + 1000].flatten(0, 1).long()
        states, vectors = encode_text(first, second, ids)
        hidden[start : start + 1000] = states.unflatten(0, (-1, per_scene)).half()
        pooled[start : start + 1000] = vectors.unflatten(0, (-1, per_scene)).half()
    empty = torch.tensor(token_ids(tokenizer, [""]), device=device)
    return LatentSet(latents, time_ids, hidden, pooled, *encode_text(first, second, empty))


def train_denoiser(
    unet: UNet2DConditionModel,
    data: LatentSet,
    device: str,
    progress: Progress,
    seconds: float,
    reserve_seconds: float,
    batch: int,
    is_continued: bool,
    warm_up: BaseProcess | None,
    save: Callable[[UNet2DConditionModel], None],  # called once during training, with the average
) -> UNet2DConditionModel:
    """Train, and return the averaged UNet."""
    move(unet, device, torch.channels_last).train()
    peak = CONTINUED_RATE if is_continued else FRESH_RATE
    weights = list(unet.parameters())
    optimizer = build_optimizer(weights, peak, 0.99, 0.01)
    average = MovingAverage(unet, 0.9985)
    compiled = compile_or_not(unet, warm_up, progress)
    signal = build_scheduler().alphas_cumprod.to(device).float()
    start, step, is_saved = progress.seconds(), 0, False
    smooth, losses = torch.zeros((), device=device), []
    for step, share in timed_steps(progress, seconds, reserve_seconds, device):
        set_rate(optimizer, peak, share)
        loss = denoising_loss(compiled, data, signal, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(unet)
        smooth.lerp_(loss.detach(), max(0.01, 1 / step))
        if progress.is_due():
            losses.append([step, round(smooth.item(), 5)])
            speed = batch * step / (progress.seconds() - start)
            progress.say(f"UNet step {step}: loss {losses[-1][1]:.4f}, {speed:.0f} pictures/s")
        if share > CHECKPOINT_SHARE and not is_saved:
            save(average.module)
            is_saved = True
    synchronize(device)
    spent = progress.seconds() - start
    progress.note(
        "denoiser",
        steps=step,
        batch=batch,
        seconds=round(spent, 1),
        parameters=count_parameters(unet),
        is_continued=is_continued,
        pictures_seen=step * batch,
        pictures_per_second=round(step * batch / spent, 1),
        final_loss=round(smooth.item(), 5),
        losses=losses,
    )
    progress.say(f"UNet done: {step} steps, {step * batch} pictures seen, loss {smooth:.4f}")
    return average.module


def denoising_loss(
    unet: Callable[..., tuple[Tensor]], data: LatentSet, signal: Tensor, batch: int
) -> Tensor:
    """Return the min-SNR weighted noise loss (arXiv:2303.09556) at stratified timesteps."""
    device = data.latents.device
    count, per_scene = data.hidden.shape[:2]
    index = torch.randint(count, (batch,), device=device)
    number = torch.randint(per_scene, (batch,), device=device)
    latents = data.latents[index].float()
    hidden, pooled = drop_prompts(data, data.hidden[index, number], data.pooled[index, number])
    strata = torch.arange(batch, device=device) + torch.rand(batch, device=device)
    timesteps = (strata / batch * TRAINING_STEPS).long().clamp(max=TRAINING_STEPS - 1)
    level = signal[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(latents)
    noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
    predicted = predict_noise(unet, noisy, timesteps, hidden, pooled, data.time_ids[index])
    ratio = (level / (1 - level)).flatten()
    weight = ratio.clamp(max=SNR_CAP) / ratio
    return (weight * (predicted.float() - noise).square().mean((1, 2, 3))).mean()


def drop_prompts(data: LatentSet, hidden: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Replace some prompts by the empty one and some by zeros; return bfloat16."""
    lot = torch.rand(len(hidden), 1, device=hidden.device)
    is_empty, is_zero = lot < EMPTY_SHARE, lot > 1 - ZERO_SHARE
    hidden = torch.where(is_empty[..., None], data.empty_hidden, hidden.float())
    pooled = torch.where(is_empty, data.empty_pooled, pooled.float())
    hidden = hidden.masked_fill(is_zero[..., None], 0)
    return hidden.bfloat16(), pooled.masked_fill(is_zero, 0).bfloat16()


def predict_noise(
    unet: Callable[..., tuple[Tensor]],
    noisy: Tensor,
    timesteps: Tensor,
    hidden: Tensor,
    pooled: Tensor,
    time_ids: Tensor,
) -> Tensor:  # as `noisy`
    """Predict the noise in latents, in bfloat16."""
    with torch.autocast(noisy.device.type, torch.bfloat16):
        return unet(
            noisy.contiguous(memory_format=torch.channels_last),
            timesteps,
            hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids},
            return_dict=False,
        )[0]


def warm_up_unet(batch_size: int) -> None:
    """Compile the UNet on a GPU, in a child process."""
    set_precision(0)
    unet = move(build_unet(), "cuda", torch.channels_last).train()
    compiled = torch.compile(unet)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda")

    for _ in range(2):
        predicted = predict_noise(
            compiled,
            normal(batch_size, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE),
            torch.randint(TRAINING_STEPS, (batch_size,), device="cuda"),
            normal(batch_size, CONTEXT_LENGTH, CONTEXT_WIDTH).bfloat16(),
            normal(batch_size, POOLED_WIDTH).bfloat16(),
            256 * torch.rand(batch_size, 6, device="cuda"),
        )
        predicted.float().square().mean().backward()
    torch.cuda.synchronize()
