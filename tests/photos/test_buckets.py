"""Buckets and crops: no distortion, no lost parts, and the right micro-conditioning."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.scenes import levels, save, scene

from nora_studio.photos.buckets import (
    bucket_sizes,
    bucket_step,
    buckets_pay,
    covering_scale,
    nearest_size,
)
from nora_studio.photos.views import UPSCALE_LIMIT, ZOOM, Framing, frames_of, photo_views
from nora_studio.sdxl.cache import LatentCache
from nora_studio.tasks.dreambooth.batches import Augmentation, PhotoBatches


def test_bucket_steps_are_sdxls_and_smaller_on_small_models():
    found = [bucket_step(resolution, 8) for resolution in (1024, 768, 512, 256, 64, 32)]
    assert found == [64, 48, 32, 16, 8, 8]


def test_sdxls_common_buckets_are_included():
    # SDXL, arXiv 2307.01952, appendix I.
    sizes = bucket_sizes(1024, 64)
    assert {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (768, 1344)} <= {
        *sizes
    }


@pytest.mark.parametrize("resolution", [32, 256, 512, 768, 1024, 1000])
def test_buckets_have_about_one_area_in_multiples_of_the_step(resolution):
    step = bucket_step(resolution, 8)
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes and len(sizes) > 2
    for height, width in sizes:
        assert (width, height) in sizes
        assert height * width <= resolution**2
        if height != width:
            assert height % step == width % step == 0
            assert height * width > 0.7 * resolution**2


sides = st.integers(32, 6000)


@settings(deadline=None, max_examples=200)
@given(sides, sides, st.sampled_from([256, 512, 1024]), st.integers(1, 12))
def test_every_photo_covers_its_crops(height, width, resolution, crops):
    sizes = bucket_sizes(resolution, bucket_step(resolution, 8))
    size = nearest_size((height, width), sizes)
    aspect = math.log(width / height)
    nearest = min(abs(math.log(w / h) - aspect) for h, w in sizes)
    assert abs(math.log(size[1] / size[0]) - aspect) == pytest.approx(nearest, abs=1e-5)
    frames = frames_of((height, width), size, crops)
    assert 1 <= len(frames) <= crops and len(set(frames)) == len(frames)
    cover = covering_scale((height, width), size)
    for frame in frames:
        assert frame.size == size
        assert 0 <= frame.top <= frame.scaled[0] - size[0]
        assert 0 <= frame.left <= frame.scaled[1] - size[1]
        factors = [
            scaled / side for scaled, side in zip(frame.scaled, (height, width), strict=True)
        ]
        # One factor for both sides, up to a pixel of rounding: nothing is distorted.
        assert abs(factors[0] - factors[1]) <= 1 / min(height, width)
        assert min(factors) <= cover * ZOOM + 1 / min(height, width)
        assert min(factors) <= max(cover, UPSCALE_LIMIT) + 1 / min(height, width)


def test_random_crops_reach_every_side():
    frames = frames_of((1000, 1500), (512, 512), crops=16)
    assert len(frames) == 16
    tops = [frame.top / max(1, frame.scaled[0] - 512) for frame in frames[1:]]
    lefts = [frame.left / max(1, frame.scaled[1] - 512) for frame in frames[1:]]
    for places in (tops, lefts):
        assert min(places) < 0.2 and max(places) > 0.8
    assert len({frame.scaled for frame in frames}) > 8  # at many zooms


def test_buckets_are_chosen_if_they_show_more():
    assert buckets_pay([(3000, 4000), (4000, 3000)], 1024)
    assert not buckets_pay([(768, 768), (767, 767)], 1024)
    assert not buckets_pay([(3000, 4000)], 256)  # such a model knows squares only


def test_a_mirrored_crop_has_its_own_left_edge(tmp_path):
    save(scene(96, 40), tmp_path / "a.png")
    framing = Framing(32, crops=4, mirrored=True)
    views = list(photo_views([tmp_path / "a.png"], framing))
    plain, mirrored = views[:4], views[4:]
    assert [view.crop for view in views] == [0, 1, 2, 3] * 2
    for one, other in zip(plain, mirrored, strict=True):
        assert torch.equal(one.pixels.flip(-1), other.pixels)
        width = one.frame.scaled[1]
        assert one.time_ids[:2] == other.time_ids[:2] == [40, 96]
        assert one.time_ids[2] == other.time_ids[2]
        # As if the photo had been mirrored before it was cut.
        assert one.time_ids[3] + 32 + other.time_ids[3] == width
        assert one.time_ids[4:] == [32, 32]
    assert any(
        one.time_ids[3] != other.time_ids[3] for one, other in zip(plain, mirrored, strict=True)
    )


def test_time_ids_hold_the_place_of_the_crop(tmp_path):
    file = save(scene(96, 64), tmp_path / "a.png")
    for view in photo_views([file], Framing(32, crops=6)):
        height, width = view.frame.scaled
        right = (view.pixels[0].numpy() + 1) / 2 * (width - 1)  # red grows rightwards
        down = (view.pixels[1].numpy() + 1) / 2 * (height - 1)
        assert np.abs(right.mean(0) - (view.time_ids[3] + np.arange(32))).max() < 1.5
        assert np.abs(down.mean(1) - (view.time_ids[2] + np.arange(32))).max() < 1.5


def test_buckets_show_a_photo_whole(tmp_path):
    file = save(scene(96, 32), tmp_path / "wide.png")
    (square,) = photo_views([file], Framing(32))
    (whole,) = photo_views([file], Framing(32, buckets=True))
    assert square.pixels.shape == (3, 32, 32)
    assert whole.pixels.shape == (3, 16, 64) and whole.time_ids == [32, 96, 2, 0, 16, 64]
    reds = [
        float(view.pixels[0, :, -1].mean() - view.pixels[0, :, 0].mean())
        for view in (square, whole)
    ]
    assert reds[1] > 1.8 > 0.8 > reds[0]  # of the 2 that a whole photo's red grows by


# Draws over buckets.


def bucket_caches(sizes: list[int], crops: int = 1, mirrored: bool = False) -> list[LatentCache]:
    """One cache a size; a photo's latents say its number, crop and mirroring: 100, 10 and 1."""
    caches, photo = [], 0
    for bucket, count in enumerate(sizes):
        views = [
            [photo + i, crop, flip]
            for i in range(count)
            for flip in range(1 + mirrored)
            for crop in range(crops)
        ]
        photo += count
        marks = torch.tensor([p * 100.0 + crop * 10 + flip for p, crop, flip in views])
        mean = marks.view(-1, 1, 1, 1).expand(-1, 2, 2, 3 + bucket)
        time_ids = marks[:, None].expand(-1, 6)
        caches.append(
            LatentCache(mean, torch.zeros_like(mean), time_ids, views=torch.tensor(views))
        )
    return caches


def marks(batch: dict[str, torch.Tensor]) -> list[int]:
    assert torch.equal(batch["latents"][:, 0, 0, 0], batch["time_ids"][:, 0])  # its own words
    return batch["time_ids"][:, 0].int().tolist()


@pytest.mark.parametrize(("sizes", "batch_size"), [([5, 3, 1], 2), ([4, 4], 4), ([1, 1, 6], 3)])
def test_batches_never_mix_sizes_and_photos_stay_even(sizes, batch_size):
    batches = PhotoBatches(bucket_caches(sizes), batch_size, 10, seed=0)
    seen = torch.zeros(sum(sizes), dtype=torch.int64)
    bucket_of = [bucket for bucket, count in enumerate(sizes) for _ in range(count)]
    for _ in range(200):
        batch = batches.next()
        photos = [mark // 100 for mark in marks(batch)]
        assert len(photos) == batch_size
        buckets = {bucket_of[photo] for photo in photos}
        assert len(buckets) == 1
        assert batch["latents"].shape == batch["noise"].shape
        assert batch["latents"].shape[-1] == 3 + buckets.pop()
        for photo in photos:
            seen[photo] += 1
        # Once a round: no photo is ahead of another by more than the rounds that it waits.
        assert seen.max() - seen.min() <= batch_size + 1


def test_crops_and_flips_are_sampled_evenly_in_every_epoch():
    augmentation = Augmentation(flip=0.25)
    caches = bucket_caches([3, 2], crops=4, mirrored=True)
    batches = PhotoBatches(caches, 2, 10, seed=0, augmentation=augmentation)
    seen = [mark for _ in range(2000) for mark in marks(batches.next())]
    flips = sum(mark % 10 for mark in seen) / len(seen)
    assert flips == pytest.approx(0.25, abs=0.03)
    for crop in range(4):
        share = sum(mark // 10 % 10 == crop for mark in seen) / len(seen)
        assert share == pytest.approx(0.25, abs=0.03)
    firsts = [mark % 100 for mark in seen if mark // 100 == 0]
    assert len(set(firsts)) == 8


def test_caption_dropout_drops_exactly_its_share():
    prompts = torch.tensor([0, 1, 2])
    augmentation = Augmentation(caption_dropout=0.3, empty_prompt=3)
    batches = PhotoBatches(bucket_caches([3]), 2, 10, 0, prompts, augmentation)
    pairs = []
    for _ in range(1500):
        batch = batches.next()
        pairs += zip(marks(batch), batch["prompts"].tolist(), strict=True)
    assert all(prompt in (3, mark // 100) for mark, prompt in pairs)
    assert sum(prompt == 3 for _, prompt in pairs) / len(pairs) == pytest.approx(0.3, abs=0.03)


def test_an_option_changes_no_other_random_choice():
    plain = PhotoBatches(bucket_caches([5]), 2, 1000, seed=1)
    augmented = PhotoBatches(
        bucket_caches([5], crops=3, mirrored=True), 2, 1000, seed=1,
        augmentation=Augmentation(flip=0.5, caption_dropout=0.5, empty_prompt=1),
    )  # fmt: skip
    for _ in range(10):
        one, other = plain.next(), augmented.next()
        assert [m // 100 for m in marks(one)] == [m // 100 for m in marks(other)]
        assert torch.equal(one["noise"], other["noise"])
        assert torch.equal(one["timesteps"], other["timesteps"])


def test_restored_bucket_batches_continue_the_same():
    def fresh(seed: int) -> PhotoBatches:
        augmentation = Augmentation(flip=0.5, caption_dropout=0.5, empty_prompt=1)
        caches = bucket_caches([3, 2, 1], crops=3, mirrored=True)
        return PhotoBatches(caches, 2, 1000, seed, augmentation=augmentation)

    first = fresh(0)
    for _ in range(25):
        first.next()
        second = fresh(99)
        second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    for _ in range(20):
        batch, again = first.next(), second.next()
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_a_photo_that_fits_is_not_resampled(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = save(Image.fromarray(noise), tmp_path / "a.png")
    (view,) = photo_views([file], Framing(64))
    back = ((view.pixels + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert (back == levels(Image.fromarray(noise))).all()
