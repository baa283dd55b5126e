"""Train the autoencoder, standardise its latents, measure its PSNR."""

import math
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from nora_studio.mini.pretrain.architecture import (
    IMAGE_SIZE,
    LATENT_CHANNELS,
    build_vae,
    count_parameters,
)
from nora_studio.mini.pretrain.compilation import compile_or_not, set_precision
from nora_studio.mini.pretrain.devices import move, synchronize
from nora_studio.mini.pretrain.optimization import (
    MovingAverage,
    build_optimizer,
    set_rate,
    timed_steps,
)
from nora_studio.mini.pretrain.pictures import Pictures, noise_pictures, save_grid
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.mini.world import render, sample_scenes

CROP = IMAGE_SIZE // 2
PEAK_RATE = 1e-3
KL_WEIGHT = 5e-5
HELD_OUT_SEED = 987_654_321


class Reconstruction(nn.Module):
    """The VAE's loss as one module, so that it compiles."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self,
        pictures: Tensor,  # (batch, 3, CROP, CROP) in [-1, 1]
        noise: Tensor,  # (batch, LATENT_CHANNELS, CROP / 8, CROP / 8), standard normal
    ) -> tuple[Tensor, Tensor]:  # loss, mean squared error
        """Return the loss of reconstructed pictures, and the mean squared error."""
        into, out_of = latent_convolutions(self.vae)
        moments = into(self.vae.encoder(pictures))
        mean, log_variance = (part.float() for part in moments.chunk(2, 1))
        log_variance = log_variance.clamp(-20, 10)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        decoded = self.vae.decoder(out_of(latents)).float()
        error = decoded - pictures
        edges = (error[..., 1:] - error[..., :-1]).abs().mean()
        edges = edges + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        squared = error.square().mean()
        loss = error.abs().mean() + 0.5 * edges + 6 * squared + KL_WEIGHT * divergence
        return loss, squared


def train_vae(
    vae: AutoencoderKL,
    pictures: Pictures,
    device: str,
    progress: Progress,
    seconds: float,
    reserve_seconds: float,
    batch: int,
    warm_up: BaseProcess | None,
) -> None:
    """Train on crops of the pictures and some noise; leave the averaged weights in `vae`."""
    move(vae, device, torch.channels_last).train()
    noise_set = noise_pictures(512 if batch > 16 else 16, IMAGE_SIZE, device)
    step_module = compile_or_not(Reconstruction(vae), warm_up, progress)
    optimizer = build_optimizer(list(vae.parameters()), PEAK_RATE, 0.99, 1e-4)
    average = MovingAverage(vae, 0.998)
    start, step, squared = progress.seconds(), 0, torch.ones(())
    for step, share in timed_steps(progress, seconds, reserve_seconds, device):
        set_rate(optimizer, PEAK_RATE, share)
        crops = draw_crops(pictures.pixels, noise_set, batch)
        loss, squared = reconstruct(step_module, crops)
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(vae)
        if progress.is_due():
            progress.say(f"VAE step {step}: loss {loss.item():.4f}, PSNR {psnr(squared):.2f} dB")
    vae.load_state_dict(average.module.state_dict())
    vae.eval().requires_grad_(False)
    rescale_vae_latents_(vae, pictures.pixels[:2048], device)
    synchronize(device)
    held_out = measure_psnr(vae, device, 256 if batch > 16 else 8)
    progress.say(f"VAE done: {step} steps, PSNR {held_out:.2f} dB on held-out renders")
    progress.note(
        "vae",
        steps=step,
        batch=batch,
        seconds=round(progress.seconds() - start, 1),
        parameters=count_parameters(vae),
        psnr_held_out=round(held_out, 2),
    )


def draw_crops(
    pixels: Tensor,  # (count, 3, size, size) uint8
    noise_set: Tensor,  # (noises, 3, size, size) uint8
    batch: int,
) -> Tensor:  # (batch, 3, CROP, CROP) in [-1, 1], channels last
    """Return the same crop of a batch, one picture in 16 of noise, half of the batches mirrored."""
    noises, device = max(1, batch // 16), pixels.device
    index = torch.randint(len(pixels), (batch - noises,), device=device)
    noise_index = torch.randint(len(noise_set), (noises,), device=device)
    top, left = torch.randint(pixels.shape[-1] - CROP + 1, (2,)).tolist()
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    crops = torch.cat([pixels[window][index], noise_set[window][noise_index]])
    crops = crops.float() / 127.5 - 1
    if torch.rand(()) < 0.5:
        crops = crops.flip(-1)
    return crops.contiguous(memory_format=torch.channels_last)


def latent_convolutions(vae: AutoencoderKL) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return the 1x1 convolutions into and out of the latents."""
    into, out_of = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out_of is not None
    return into, out_of


def reconstruct(
    step_module: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], crops: Tensor
) -> tuple[Tensor, Tensor]:  # loss, mean squared error
    """Compute the VAE's loss on crops, with new noise, in bfloat16."""
    shape = (len(crops), LATENT_CHANNELS, CROP // 8, CROP // 8)
    noise = torch.randn(shape, device=crops.device)
    with torch.autocast(crops.device.type, torch.bfloat16):
        return step_module(crops, noise)


def warm_up_vae(batch: int) -> None:
    """Compile the VAE's training step on a GPU, in a child process."""
    set_precision(0)
    vae = move(build_vae(), "cuda", torch.channels_last).train()
    step_module = torch.compile(Reconstruction(vae))
    for _ in range(2):
        crops = torch.rand(batch, 3, CROP, CROP, device="cuda")
        crops = crops.contiguous(memory_format=torch.channels_last)
        reconstruct(step_module, crops)[0].backward()
    torch.cuda.synchronize()


@torch.no_grad()
def rescale_vae_latents_(vae: AutoencoderKL, pixels: Tensor, device: str) -> None:
    """Scale latents to mean 0, deviation 1 in the 1x1 convolutions, so that scaling_factor is 1."""
    means = torch.cat([encode_latents(vae, part) for part in pixels.split(64)]).float()
    mean, deviation = means.mean((0, 2, 3)), means.std((0, 2, 3))
    into, out_of = latent_convolutions(vae)
    channels = len(mean)
    assert into.bias is not None and out_of.bias is not None
    into.weight[:channels] /= deviation.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / deviation
    into.bias[channels:] -= 2 * deviation.log()
    out_of.bias += (out_of.weight[:, :, 0, 0] * mean).sum(1)
    out_of.weight *= deviation.view(1, -1, 1, 1)


def posterior_mean(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Encode pictures in [-1, 1] to the posterior's mean."""
    return vae.encode(pictures, return_dict=False)[0].mean


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Decode latents to pictures in [-1, 1]."""
    return vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]


@torch.no_grad()
def encode_latents(
    vae: AutoencoderKL,
    pixels: Tensor,  # (batch, 3, size, size) uint8
) -> Tensor:  # (batch, LATENT_CHANNELS, size / 8, size / 8): the posterior's mean
    """Encode 8-bit pictures to the posterior's mean, in bfloat16."""
    pictures = (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
    with torch.autocast(pixels.device.type, torch.bfloat16):
        return posterior_mean(vae, pictures)


@torch.no_grad()
def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:  # (batch, 3, ...) in [0, 1]
    """Decode latents to pictures in [0, 1], in bfloat16."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        decoded = decode(vae, latents)
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def measure_psnr(vae: AutoencoderKL, device: str, count: int) -> float:
    """Return the mean PSNR in dB over `count` renders that are never trained on (no sampling)."""
    scenes = sample_scenes(count, HELD_OUT_SEED)
    ratios = []
    with torch.no_grad():
        for start in range(0, count, 32):
            pictures = render(scenes.select(slice(start, start + 32)), IMAGE_SIZE, device)
            inputs = (pictures * 2 - 1).to(vae.dtype)
            decoded = decode(vae, posterior_mean(vae, inputs))
            error = (decoded.float().clamp(-1, 1) / 2 + 0.5 - pictures).square().mean((1, 2, 3))
            ratios.append(-10 * torch.log10(error.clamp_min(1e-10)))
    return torch.cat(ratios).mean().item()


def show_reconstructions(vae: AutoencoderKL, pixels: Tensor, path: Path) -> None:
    """Write a row of pictures above a row of their reconstructions."""
    reconstructed = decode_latents(vae, encode_latents(vae, pixels))
    save_grid(torch.cat([pixels / 255, reconstructed]), len(pixels), path)


def psnr(squared: Tensor) -> float:
    """Return the PSNR of a mean squared error between pictures in [-1, 1]."""
    return -10 * math.log10(max(squared.item(), 1e-10) / 4)
