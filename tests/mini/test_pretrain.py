"""Pretraining of the miniature SDXL: what must hold for any training time."""

import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from support.own_clip import open_clips_own
from support.places import TOP
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPTokenizer

from nora_studio.errors import StudioError
from nora_studio.mini import world
from nora_studio.mini.pretrain import (
    architecture,
    captions,
    contrastive,
    denoiser,
    export,
    optimization,
    pictures,
    tokenizer,
    vae,
)
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.scoring import mini_thresholds as thresholds


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    return tokenizer.build_tokenizer(folder, caption_count=2000)


@pytest.fixture(scope="module")
def models(words: CLIPTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained pipeline and scorer, exported as the training run exports them."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("models")
    first, second = architecture.build_text_encoders(words)
    export.export_vae(out, architecture.build_vae())
    export.export_encoders(out, words, first, second, architecture.build_clip(len(words)))
    export.export_unet(out, architecture.build_unet())
    return out


def test_every_word_of_the_world_is_one_token(words: CLIPTokenizer) -> None:
    for word in [*world.NAMES, *world.CLASSES, *world.COLORS, "snow", "brick", "striped"]:
        assert len(words(word).input_ids) == 3, word
    assert len(words) <= 1300
    with pytest.raises(StudioError, match="must be one token"):
        tokenizer.check_words(words, ["floccinaucinihilipilification"])


def test_any_text_can_be_encoded_and_decoded(words: CLIPTokenizer) -> None:
    text = "a photo of [v] café, 7 o'clock!"
    decoded = str(words.decode(words(text).input_ids, skip_special_tokens=True))
    assert decoded.replace(" ", "") == text.replace(" ", "")


def test_prompts_are_padded_with_the_largest_id(words: CLIPTokenizer) -> None:
    ids = torch.tensor(tokenizer.token_ids(words, ["a red mug"]))
    assert ids.shape == (1, 77)
    assert int(ids.argmax()) == 4  # start, a, red, mug, end: where open_clip pools
    assert list(set(ids[0, 4:].tolist())) == [words.eos_token_id]


def test_captions_match_their_pictures(words: CLIPTokenizer, tmp_path: Path) -> None:
    words.save_pretrained(tmp_path)
    count = pictures.CHUNK + 40  # a second chunk, begun
    job = captions.start_captions(count, 3, tmp_path, per_scene=1)
    ids = job.collect("cpu")
    assert ids.partial.shape == (count, 1, 77) and ids.full.shape == (count, 77)
    scenes = [chunk for _, chunk in pictures.chunk_scenes(count, 3)][1]
    for i in range(40):
        text = words.decode(ids.full[pictures.CHUNK + i].long(), skip_special_tokens=True)
        synonyms = world.SYNONYMS[world.CLASSES[int(scenes.kind[i])]]
        assert any(word in text for word in synonyms), text


def test_time_ids_hold_size_and_crop_of_the_original() -> None:
    drawn = torch.rand(2000, 1, 16, 16)
    varied, time_ids = pictures.vary_originals(drawn.clone(), torch.Generator().manual_seed(0))
    whole = (time_ids == torch.tensor([16.0, 16, 0, 0, 16, 16])).all(1)
    assert torch.equal(varied[whole], drawn[whole])
    is_crop = time_ids[:, 0] == 20
    assert 0.05 < is_crop.float().mean() < 0.11
    assert (time_ids[is_crop, 2:4] <= 4).all() and (time_ids[:, 4:] == 16).all()
    assert whole.float().mean() < 0.9


def test_standardising_keeps_the_pictures_and_centres_the_latents() -> None:
    torch.manual_seed(0)
    model = architecture.build_vae().eval().requires_grad_(False)
    pixels = (torch.rand(4, 3, 64, 64) * 255).byte()

    def reconstruct() -> torch.Tensor:
        sent = pixels.float() / 127.5 - 1
        return model.decode(model.encode(sent).latent_dist.mean).sample  # pyright: ignore

    before = reconstruct()
    vae.rescale_vae_latents_(model, pixels, "cpu")
    assert torch.allclose(reconstruct(), before, atol=1e-4)
    latents = vae.encode_latents(model, pixels).float()
    assert latents.mean((0, 2, 3)).abs().max() < 0.02
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.02


def test_unseen_attributes_are_left_out() -> None:
    scenes = world.sample_scenes(400, 0)
    scenes = replace(scenes, style=torch.arange(400) % 2, pattern=torch.arange(400) % 3 % 2)
    targets = contrastive.attribute_targets(scenes)
    is_sketch = scenes.style == 1
    assert (targets["main_color"][is_sketch] == contrastive.UNSEEN).all()
    assert torch.equal(targets["main_color"][~is_sketch], scenes.main_color[~is_sketch])
    assert (targets["second_color"][scenes.pattern == 0] == contrastive.UNSEEN).all()
    assert torch.equal(targets["place"], scenes.place)


def test_contrastive_loss_is_least_for_the_right_pairs() -> None:
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(50.0)
    right = contrastive.contrastive_loss(features, features, scale)
    wrong = contrastive.contrastive_loss(features, features.roll(1, 0), scale)
    assert right < 0.2 < 10 < wrong


def latent_set(count: int = 8, size: int = 32, tokens: int = 77) -> denoiser.LatentSet:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(0))

    return denoiser.LatentSet(
        latents=normal(count, 8, size, size).half(),
        time_ids=torch.full((count, 6), 256.0),
        hidden=normal(count, 2, tokens, 256).half(),
        pooled=normal(count, 2, 128).half(),
        empty_hidden=torch.full((1, tokens, 256), 7.0),
        empty_pooled=torch.full((1, 128), 7.0),
    )


def test_a_tenth_of_the_prompts_is_dropped() -> None:
    torch.manual_seed(0)
    hidden, pooled = torch.ones(4000, 1, 4), torch.ones(4000, 4)
    data = replace(
        latent_set(), empty_hidden=torch.full((1, 1, 4), 7.0), empty_pooled=torch.full((1, 4), 7.0)
    )
    dropped, vectors = denoiser.drop_prompts(data, hidden, pooled)
    for value in (7, 0):
        share = (vectors[:, 0] == value).float().mean()
        assert 0.035 < share < 0.065
        assert torch.equal(vectors[:, 0] == value, dropped[:, 0, 0] == value)


def test_denoising_loss_is_min_snr_weighted() -> None:
    """A UNet whose last layer is zero predicts zero, so that the loss is known in closed form."""
    torch.manual_seed(0)
    unet = architecture.build_unet().requires_grad_(False)
    for weight in unet.conv_out.parameters():
        weight.zero_()
    signal = architecture.build_scheduler().alphas_cumprod
    loss = denoiser.denoising_loss(unet, latent_set(8, 8, 2), signal, 512)
    ratio = signal / (1 - signal)
    expected = (ratio.clamp(max=5) / ratio).mean()  # the noise has variance 1
    assert abs(loss.item() / expected.item() - 1) < 0.006


@pytest.mark.slow
def test_training_the_unet_lowers_the_loss_and_saves_on_the_way() -> None:
    torch.manual_seed(0)
    saved: list[int] = []
    clock = Progress(1e6, time.time())
    unet = denoiser.train_denoiser(
        architecture.build_unet(),
        latent_set(2),
        "cpu",
        clock,
        seconds=6.0,  # Several steps even on a machine with other work.
        reserve_seconds=0,
        batch=2,
        is_continued=False,
        warm_up=None,
        save=lambda average: saved.append(id(average)),
    )
    assert saved == [id(unet)]
    assert clock.log["denoiser"]["final_loss"] < 1.0
    assert not any(weight.requires_grad for weight in unet.parameters())


def test_steps_stop_before_the_deadline() -> None:
    clock = Progress(1.0, time.time())
    shares = []
    for _, share in optimization.timed_steps(clock, 60.0, 0.6, "cpu"):
        shares.append(share)
        time.sleep(0.02)
    assert len(shares) > optimization.WARM_UP_STEPS
    assert sorted(shares) == shares and 0 <= shares[0] <= shares[-1] < 1
    assert 0.3 < clock.left() < 0.6


def test_the_moving_average_follows_the_weights() -> None:
    module = torch.nn.Linear(2, 2)
    average = optimization.MovingAverage(module, 0.5)
    with torch.no_grad():
        module.weight += 1
    for _ in range(60):
        average.update(module)
    assert torch.allclose(average.module.weight, module.weight)
    assert not average.module.weight.requires_grad


def test_an_exported_pipeline_generates_images(models: Path) -> None:
    pipeline = StableDiffusionXLPipeline.from_pretrained(models / "mini-sdxl")
    pipeline = pipeline.to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    few = thresholds.generate(pipeline, ["a red mug", "a cat"], seed=5, batch=2, steps=1)
    assert few.shape == (2, 3, 256, 256)
    alone = thresholds.generate(pipeline, ["a cat"], seed=6, batch=1, steps=1)
    assert torch.allclose(few[1:], alone, atol=1e-3)  # the batch does not matter
    assert architecture.count_parameters(pipeline.unet) <= 14_000_000


def test_an_exported_scorer_is_read_by_open_clip(models: Path, words: CLIPTokenizer) -> None:
    name = f"local-dir:{models / 'mini-clip'}"
    model, preprocess = open_clips_own(name)
    ids = open_clip.get_tokenizer(name)(["a red mug"])
    assert ids[0, :5].tolist() == words("a red mug").input_ids
    picture = torch.rand(1, 3, 256, 256)
    ours = thresholds.resize_pictures(picture) * 2 - 1
    theirs = preprocess(to_pil_image(picture[0]))[None]
    assert (ours - theirs).abs().mean() < 0.01
    assert model.encode_image(ours).shape == model.encode_text(ids).shape == (1, 128)


def test_packed_results_are_unpacked_unchanged(models: Path, tmp_path: Path) -> None:
    export.pack(models, ["mini-sdxl", "mini-clip"], tmp_path / "report", "stage")
    tars = sorted((tmp_path / "report").iterdir())
    assert len(tars) <= 4 and all(tar.stat().st_size < 16 << 20 for tar in tars)
    export.copy_results(tmp_path / "report", tmp_path / "out")
    for path in (p for p in models.rglob("*") if p.is_file()):
        assert (tmp_path / "out" / path.relative_to(models)).read_bytes() == path.read_bytes()
    with pytest.raises(StudioError, match="found neither"):
        export.copy_results(tmp_path, tmp_path / "out")


def run_pretraining(*arguments: str) -> int:
    """Run the entry script as a person would, in this process: importing torch again is slow."""
    script = TOP / "training" / "pretrain_mini.py"
    before, sys.argv = sys.argv, [str(script), *arguments]
    try:
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_a_unet_without_encoders_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--stage", "unet", "--device", "cpu", "--out", str(tmp_path))
    assert run_pretraining(*arguments) == 2
    assert "Run the encoders stage first" in capsys.readouterr().err


def test_training_continues_from_an_earlier_unet(models: Path, tmp_path: Path) -> None:
    unet = export.load_unet(models)
    stored = load_file(next((models / "mini-sdxl" / "unet").glob("*-00001-*.safetensors")))
    weights = unet.state_dict()
    assert all(torch.equal(weights[name], value.float()) for name, value in stored.items())
    assert "_name_or_path" not in unet.config, "a saved config would name this machine"
    (tmp_path / "mini-sdxl").mkdir()
    with pytest.raises(StudioError, match="expected a UNet in"):
        export.load_unet(tmp_path)


@pytest.mark.slow
def test_both_stages_train_and_measure_from_nothing(tmp_path: Path) -> None:
    out, report = tmp_path / "assets", tmp_path / "report"
    arguments = (
        "--out", out, "--report", report, "--device", "cpu", "--pictures", 16, "--pack",
        "--vae-seconds", 1, "--clip-seconds", 1, "--unet-seconds", 1,
        "--vae-batch", 2, "--clip-batch", 4, "--unet-batch", 2, "--bar-prompts", 1,
    )  # fmt: skip
    assert run_pretraining(*map(str, arguments)) == 0
    StableDiffusionXLPipeline.from_pretrained(out / "mini-sdxl")
    log = json.loads((out / "mini-sdxl" / export.LOG).read_text(encoding="utf-8"))
    assert {"vae", "contrastive", "denoiser", "encoders_run", "unet_run"} <= log.keys()
    assert "## Rebuild" in (out / "README.md").read_text(encoding="utf-8")
    made = {path.name for path in report.iterdir()}
    assert {"grid_final.png", "vae.png", "bars.json", "vae-1.tar", "unet-1.tar"} <= made
