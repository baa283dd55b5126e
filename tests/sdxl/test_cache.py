"""Caches on disk: the same results to the bit, and no stale or damaged entry is used."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.modules import PACKAGE
from support.scenes import save, scene
from support.tiny import RARE_TOKEN, SIZE, tiny_sdxl
from torch import nn

from nora_studio.photos.images import list_photos
from nora_studio.photos.views import Framing, photo_views
from nora_studio.runs.disk_cache import TensorCache, default_cache_folder, weights_digest
from nora_studio.sdxl.cache import LatentCache, encode_photos
from nora_studio.sdxl.models import all_on_device, load_sdxl, to_device
from nora_studio.tasks.dreambooth.step import encode_prompts

PROMPTS = ["a photo of a [V] mug", "my [V] on the beach", ""]


@pytest.fixture
def store(tmp_path) -> TensorCache:
    return TensorCache(tmp_path / "store")


def calls_of(module: nn.Module) -> list[int]:
    """A list that grows with every encoding."""
    calls: list[int] = []
    for one in module.modules():
        if isinstance(one, nn.Conv2d | nn.Embedding):
            one.register_forward_hook(lambda *_: calls.append(1))
            break
    return calls


def encoded(pipe, folder: Path, store: TensorCache | None, **framing) -> list[LatentCache]:
    return encode_photos(pipe, photo_views(list_photos(folder), Framing(SIZE, **framing)), store)


def assert_same_caches(one: list[LatentCache], other: list[LatentCache]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("mean", "std", "time_ids", "views"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("framing", [{}, {"crops": 3, "mirrored": True, "buckets": True}])
def test_cached_latents_equal_new_ones_without_using_the_vae(
    tiny_base, photo_folder, store, framing
):
    plain = encoded(load_sdxl(str(tiny_base)), photo_folder, None, **framing)
    cold = encoded(load_sdxl(str(tiny_base)), photo_folder, store, **framing)
    pipe = load_sdxl(str(tiny_base))
    calls = calls_of(pipe.vae.encoder)
    warm = encoded(pipe, photo_folder, store, **framing)
    assert not calls
    assert_same_caches(plain, cold)
    assert_same_caches(plain, warm)


def test_every_change_of_the_latents_is_encoded_again(tiny_base, tmp_path, store):
    folder = tmp_path / "photos"
    folder.mkdir()
    image = scene(64, 48)
    save(image, folder / "a.png")
    pipe = load_sdxl(str(tiny_base))
    calls = calls_of(pipe.vae.encoder)

    def asked(**framing) -> bool:
        calls.clear()
        encoded(pipe, folder, store, **framing)
        return bool(calls)

    assert asked() and not asked()
    assert asked(mirrored=True) and not asked(mirrored=True)
    assert asked(buckets=True)
    image.putpixel((3, 3), (1, 2, 3))  # one pixel of the photo
    save(image, folder / "a.png")
    assert asked() and not asked()
    (folder / "a.png").rename(folder / "other.png")
    assert not asked()  # a name is no content
    weight = pipe.vae.encoder.conv_in.weight
    weight.data[0, 0, 0, 0] += 1e-3  # one number of the VAE
    assert asked()
    nn.Module.to(pipe.vae, torch.float16)
    assert asked()


def test_prompts_are_cached_by_encoder_and_token_ids(tiny_base, store, tmp_path):
    plain = encode_prompts(load_sdxl(str(tiny_base)), PROMPTS, RARE_TOKEN)
    encode_prompts(load_sdxl(str(tiny_base)), PROMPTS, RARE_TOKEN, store)
    pipe = load_sdxl(str(tiny_base))
    calls = [calls_of(encoder) for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
    warm = encode_prompts(pipe, PROMPTS, RARE_TOKEN, store)
    assert calls == [[], []]
    for part in ("text_encoder", "text_encoder_2"):
        assert torch.equal(plain.hidden[part], warm.hidden[part])
        assert torch.equal(plain.ids[part], warm.ids[part])
    assert torch.equal(plain.pooled, warm.pooled)
    encode_prompts(pipe, PROMPTS, "mug", store)  # another word for [V]
    assert len(calls[0]) == len(calls[1]) == 2
    other = load_sdxl(str(tiny_sdxl(tmp_path / "other", seed=1)))
    again = encode_prompts(other, PROMPTS, RARE_TOKEN, store)
    assert not torch.equal(again.pooled, warm.pooled)


def test_the_empty_prompt_is_encoded_as_in_sdxl(tiny_base):
    pipe = load_sdxl(str(tiny_base))
    text = encode_prompts(pipe, PROMPTS, RARE_TOKEN)
    assert text.is_unconditional is not None and text.is_unconditional.tolist() == [
        False,
        False,
        True,
    ]
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert encode_prompts(pipe, PROMPTS, RARE_TOKEN).is_unconditional is None


@pytest.mark.parametrize("damage", ["cut", "swapped", "flipped", "empty", "foreign"])
def test_a_damaged_cache_entry_is_made_again(store, damage):
    tensors = {"mean": torch.arange(64.0), "std": torch.ones(64)}
    store.write("a", tensors)
    (file,) = store.folder.glob("*.safetensors")
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[:-9])
    elif damage == "swapped":
        save_file(load_file(file) | {"mean": torch.ones(64)}, file, {"sha256": "0" * 64})
    elif damage == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        save_file({"mean": torch.ones(64)}, file)
    assert store.read("a") is None
    store.write("a", tensors)
    found = store.read("a")
    assert found is not None and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_the_cache_removes_the_least_recently_used_beyond_its_limit(tmp_path):
    store = TensorCache(tmp_path, limit_bytes=5 * 4300)
    for number in range(8):
        store.write(str(number), {"x": torch.full((1024,), float(number))})
        for file in tmp_path.glob("*.safetensors"):
            os.utime(file, (time.time() - 10, file.stat().st_mtime - 10))
    assert store.read("0") is not None  # used just now
    (tmp_path / "left.new").write_bytes(b"x")
    os.utime(tmp_path / "left.new", (0, 0))
    (tmp_path / "fresh.new").write_bytes(b"x")
    store.prune()
    assert [store.read(str(n)) is not None for n in range(8)] == [True, *[False] * 3, *[True] * 4]
    assert sorted(file.name for file in tmp_path.glob("*.new")) == ["fresh.new"]


def test_a_cache_folder_that_cannot_be_written_only_warns(tmp_path):
    (tmp_path / "file").write_text("")
    store = TensorCache(tmp_path / "file" / "store")
    with pytest.warns(UserWarning, match="the cache .* cannot be written"):
        store.write("a", {"x": torch.ones(2)})
    store.write("a", {"x": torch.ones(2)})  # told once
    assert store.read("a") is None
    store.prune()


@pytest.mark.slow
def test_processes_may_write_the_same_key_at_once(tmp_path):
    code = (
        "import sys, types, pathlib, torch\n"
        # The package's own __init__ takes seconds, and has no part in this.
        "package = sys.modules['nora_studio'] = types.ModuleType('nora_studio')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "from nora_studio.runs.disk_cache import TensorCache\n"
        "store = TensorCache(pathlib.Path(sys.argv[2]))\n"
        "for _ in range(60):\n"
        "    store.write('a', {'x': torch.arange(20000)})\n"
        "    found = store.read('a')\n"
        "    assert found is not None and torch.equal(found['x'], torch.arange(20000))\n"
        "    store.prune()\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(PACKAGE),
        str(tmp_path / "store"),
    ]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(list((tmp_path / "store").iterdir())) == 1


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NORA_STUDIO_CACHE", str(tmp_path / "own"))
    assert default_cache_folder("latents") == tmp_path / "own" / "latents"
    monkeypatch.delenv("NORA_STUDIO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder("text") == tmp_path / "nora-studio" / "text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder("text") == tmp_path / ".cache" / "nora-studio" / "text"


def test_a_digest_depends_on_every_weight(tiny_base):
    vae = load_sdxl(str(tiny_base)).vae
    before = weights_digest(vae)
    assert weights_digest(load_sdxl(str(tiny_base)).vae) == before
    for parameter in list(vae.parameters())[::7]:
        kept = parameter.data.flatten()[-1].clone()
        parameter.data.view(-1)[-1] = kept + 1e-3
        assert weights_digest(vae) != before
        parameter.data.view(-1)[-1] = kept
    assert weights_digest(vae) == before
    assert weights_digest(vae.half()) != before


@pytest.mark.gpu
def test_idle_parts_stay_off_the_device_until_an_image_is_generated(tiny_base, photo_folder, store):
    device = torch.device("cuda")
    for warm in (False, True):
        pipe = load_sdxl(str(tiny_base))
        to_device(pipe, {"unet", "text_encoder"}, device)
        vae_calls, text_calls = calls_of(pipe.vae.encoder), calls_of(pipe.text_encoder_2)
        encode_prompts(pipe, PROMPTS, RARE_TOKEN, store)
        views = photo_views(list_photos(photo_folder), Framing(SIZE))
        encode_photos(pipe, views, store, pipe.device)
        assert (not vae_calls and not text_calls) == warm
        modules = (pipe.unet, pipe.text_encoder, pipe.text_encoder_2, pipe.vae)
        assert [module.device.type for module in modules] == ["cuda", "cuda", "cpu", "cpu"]
        with all_on_device(pipe):
            assert {module.device.type for module in modules} == {"cuda"}
        assert [module.device.type for module in modules] == ["cuda", "cuda", "cpu", "cpu"]
