"""One training step of SDXL against the pipeline's own text and a loss written out in float64."""

import copy
import math
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from support.tiny import RARE_TOKEN
from support.tolerances import FLOAT32, FLOAT32_FACTORS
from support.trainer import PROMPT, tiny_options, tiny_subject

from nora_studio.photos.images import list_photos
from nora_studio.photos.prompts import replace_token
from nora_studio.photos.views import TrainingImage, prepare_photo
from nora_studio.sdxl.cache import encode_photos
from nora_studio.sdxl.diffusion import Denoising
from nora_studio.sdxl.models import load_sdxl, native_resolution
from nora_studio.tasks.dreambooth.step import DreamboothStep, encode_prompts

ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture
def subject_and_batches(tiny_base, photo_folder, tmp_path):
    return tiny_subject(tiny_options(tiny_base, photo_folder, tmp_path))


def load_photos(folder: Path, size: int) -> list[TrainingImage]:
    return [prepare_photo(file, size) for file in list_photos(folder)]


def heard_by(unet: torch.nn.Module) -> list[dict]:
    """A list that collects what the UNet is given from now on."""
    heard: list[dict] = []

    def hear(module, arguments, named) -> None:
        names = ("sample", "timestep", "encoder_hidden_states")
        heard.append(dict(zip(names, arguments, strict=False)) | named)

    unet.register_forward_pre_hook(hear, with_kwargs=True)
    return heard


@pytest.mark.parametrize("live", [(), ENCODERS, ENCODERS[:1], ENCODERS[1:]], ids="+".join)
def test_the_encoded_text_equals_the_pipelines_to_the_bit(subject_and_batches, live):
    subject, batches = subject_and_batches
    pipe = subject.pipe
    heard = heard_by(pipe.unet)
    encoders = {part: getattr(pipe, part) for part in live}
    step = DreamboothStep(pipe.unet, encoders, subject.text, subject.process)
    with torch.no_grad():
        step(**batches.next())
        text, _, pooled, _ = pipe.encode_prompt(
            replace_token(PROMPT, RARE_TOKEN), do_classifier_free_guidance=False
        )
    assert torch.equal(heard[0]["encoder_hidden_states"], text.expand(2, -1, -1))
    assert torch.equal(heard[0]["added_cond_kwargs"]["text_embeds"], pooled.expand(2, -1))


def test_the_time_ids_equal_the_pipelines(subject_and_batches, photo_folder):
    subject, batches = subject_and_batches
    pipe = subject.pipe
    heard = heard_by(pipe.unet)
    photo = load_photos(photo_folder, subject.size)[1]
    pipe(
        PROMPT,
        num_inference_steps=1,
        guidance_scale=1.0,
        height=subject.size,
        width=subject.size,
        original_size=photo.original_size,
        crops_coords_top_left=photo.crop_top_left,
        target_size=(subject.size, subject.size),
    )
    expected = heard[0]["added_cond_kwargs"]["time_ids"][0]
    assert torch.equal(batches.caches[0].time_ids[1], expected)


def test_latents_are_the_vaes_as_the_pipeline_scales_them(subject_and_batches, photo_folder):
    subject, batches = subject_and_batches
    vae = copy.deepcopy(subject.pipe.vae).double()
    for index, photo in enumerate(load_photos(photo_folder, subject.size)):
        with torch.no_grad():
            posterior = vae.encode(photo.pixels[None].double()).latent_dist
        scale = vae.config.scaling_factor
        for ours, theirs in (
            (batches.caches[0].mean, posterior.mean),
            (batches.caches[0].std, posterior.std),
        ):
            torch.testing.assert_close(ours[index].double(), theirs[0] * scale, **FLOAT32_FACTORS)


def test_photos_are_encoded_in_float32_by_a_half_precision_model(tiny_base, photo_folder):
    pipe = load_sdxl(str(tiny_base), torch.float16)
    before = {name: tensor.clone() for name, tensor in pipe.vae.state_dict().items()}
    (cache,) = encode_photos(pipe, load_photos(photo_folder, native_resolution(pipe)))
    assert cache.mean.dtype == cache.std.dtype == torch.float32
    assert not torch.equal(cache.mean, cache.mean.half().float())  # float16 never saw them
    after = pipe.vae.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert pipe.vae.dtype == torch.float16


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_loss_equals_the_formula_on_the_same_batch(subject_and_batches, kind, gamma):
    subject, batches = subject_and_batches
    pipe = subject.pipe
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    weighting = "none" if gamma is None else "min-snr"
    process = Denoising.of(pipe, weighting, gamma or 5.0)
    step = DreamboothStep(pipe.unet, {}, subject.text, process)
    batch = batches.next()
    with torch.no_grad():
        loss = step(**batch)
        expected = dense_loss(pipe, batch, kind, gamma)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def dense_loss(pipe, batch: dict[str, torch.Tensor], kind: str, gamma: float | None) -> float:
    """The same loss picture by picture in float64, from the papers' formulas."""
    unet = copy.deepcopy(pipe.unet).double()
    text, _, pooled, _ = pipe.encode_prompt(
        replace_token(PROMPT, RARE_TOKEN), do_classifier_free_guidance=False
    )
    first, last = math.sqrt(0.00085), math.sqrt(0.012)
    betas = torch.linspace(first, last, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)
    losses = []
    for i, t in enumerate(batch["timesteps"].tolist()):
        clean, noise = batch["latents"][i : i + 1].double(), batch["noise"][i : i + 1].double()
        a = kept[t]
        said = unet(
            a.sqrt() * clean + (1 - a).sqrt() * noise,
            t,
            text.double(),
            added_cond_kwargs={
                "text_embeds": pooled.double(),
                "time_ids": batch["time_ids"][i : i + 1].double(),
            },
        ).sample
        wanted = noise if kind == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean
        snr = a / (1 - a)
        weight = 1.0
        if gamma is not None:
            weight = min(snr, gamma) / (snr if kind == "epsilon" else snr + 1)
        losses.append(float(weight * (said - wanted).pow(2).mean()))
    return sum(losses) / len(losses)


def test_a_base_that_predicts_something_else_is_refused(tiny_pipe):
    config = tiny_pipe.scheduler.config
    tiny_pipe.scheduler = EulerDiscreteScheduler.from_config(config, prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        Denoising.of(tiny_pipe)


def test_the_prompt_is_tokenised_with_the_trigger(tiny_pipe):
    ids = encode_prompts(tiny_pipe, [PROMPT], RARE_TOKEN).ids
    rare = tiny_pipe.tokenizer.convert_tokens_to_ids(f"{RARE_TOKEN}</w>")
    assert all((ids[part] == rare).sum() == 1 and ids[part].shape == (1, 77) for part in ENCODERS)


def test_a_vae_with_statistics_of_its_channels_is_undone_by_the_pipeline(tiny_pipe, photo_folder):
    photo = prepare_photo(list_photos(photo_folder)[0], native_resolution(tiny_pipe))
    [plain] = encode_photos(tiny_pipe, [photo])
    channels = plain.mean.shape[1]
    mean, std = [0.5 + 0.1 * c for c in range(channels)], [2.0 + c for c in range(channels)]
    tiny_pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    [own] = encode_photos(tiny_pipe, [photo])
    # As StableDiffusionXLPipeline goes back to the VAE's own latents before it decodes.
    scale = tiny_pipe.vae.config["scaling_factor"]
    back = own.mean * torch.tensor(std).view(1, -1, 1, 1) / scale
    back = back + torch.tensor(mean).view(1, -1, 1, 1)
    torch.testing.assert_close(back, plain.mean / scale, **FLOAT32)
    torch.testing.assert_close(own.std * torch.tensor(std).view(1, -1, 1, 1), plain.std, **FLOAT32)
