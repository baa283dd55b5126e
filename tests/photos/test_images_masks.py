"""Masks weight the loss at the places that each crop shows."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.scenes import save, scene
from support.tiny import SIZE
from support.trainer import tiny_options, tiny_subject

from nora_studio.errors import StudioError
from nora_studio.photos.images import list_photos
from nora_studio.photos.views import Framing, photo_views
from nora_studio.sdxl.cache import encode_photos
from nora_studio.sdxl.losses import denoising_loss


def box_mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, box)
    return mask


def test_a_mask_is_not_listed_as_a_photo(tmp_path):
    save(scene(), tmp_path / "3.jpg")
    save(Image.new("L", (48, 36), 255), tmp_path / "3.mask.png")
    assert [file.name for file in list_photos(tmp_path)] == ["3.jpg"]


@pytest.mark.parametrize("floor", [0.0, 0.1, 0.5])
def test_a_loss_mask_is_white_over_floor_and_one_on_average(tmp_path, floor):
    file = save(scene(64, 64), tmp_path / "3.png")
    save(box_mask(64, 64, (0, 0, 32, 64)), tmp_path / "3.mask.png")
    (view,) = photo_views([file], Framing(64, masks="files", mask_floor=floor))
    mask = view.loss_mask
    assert mask.shape == (1, 8, 8) and mask.mean().item() == pytest.approx(1)
    white, black = mask[0, :, :4], mask[0, :, 4:]
    expected = (1 / ((1 + floor) / 2), floor / ((1 + floor) / 2))
    assert torch.allclose(white, torch.tensor(expected[0]), atol=1e-5)
    assert torch.allclose(black, torch.tensor(expected[1]), atol=1e-5)


def test_a_loss_mask_follows_crop_and_flip(tmp_path):
    # Red grows rightwards, so that the picture itself says where the mask's edge must be.
    file = save(scene(192, 128), tmp_path / "3.png")
    save(box_mask(192, 128, (0, 0, 96, 128)), tmp_path / "3.mask.png")
    framing = Framing(64, crops=6, mirrored=True, masks="files", mask_floor=0.0)
    views = list(photo_views([file], framing))
    assert len({view.frame for view in views}) == 12
    for view in views:
        red = (view.pixels[0] + 1) / 2 * 191
        inside = (red < 95.5).float().view(8, 8, 8, 8).mean(dim=(1, 3))
        assert (view.loss_mask[0] / view.loss_mask.max() - inside).abs().max() < 0.2


def test_random_crops_keep_half_of_what_a_mask_marks(tmp_path):
    file = save(scene(400, 100), tmp_path / "3.png")
    save(box_mask(400, 100, (150, 20, 230, 80)), tmp_path / "3.mask.png")
    for masks, all_in in (("files", True), ("none", False)):
        views = list(photo_views([file], Framing(64, crops=8, masks=masks)))
        kept = []
        for view in views:
            mask = view.frame.cut(box_mask(400, 100, (150, 20, 230, 80)))
            scale = view.frame.scaled[1] / 400
            kept.append(np.asarray(mask).sum() / 255 / (80 * 60 * scale**2))
        assert (min(kept[1:]) > 0.45) == all_in


def test_transparency_serves_as_a_mask(tmp_path):
    image = scene(64, 64).convert("RGBA")
    image.putalpha(box_mask(64, 64, (0, 0, 64, 32)))
    file = save(image, tmp_path / "3.png")
    (view,) = photo_views([file], Framing(64, masks="alpha", mask_floor=0.0))
    assert torch.allclose(view.loss_mask[0, :4], torch.tensor(2.0))
    assert (view.loss_mask[0, 4:] == 0).all()
    (view,) = photo_views([file], Framing(64, masks="files"))
    assert (view.loss_mask == 1).all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (Image.new("L", (48, 36), 0), "marks nothing"),
        (Image.new("L", (36, 48), 255), "another shape"),
        (
            box_mask(48, 36, (0, 0, 3, 36)),
            "shows nothing of the subject",
        ),  # left of the centre square
    ],
)
def test_an_unusable_mask_is_refused_by_name(tmp_path, mask, words):
    file = save(scene(), tmp_path / "3.png")
    save(mask, tmp_path / "3.mask.png")
    with pytest.raises(StudioError, match=words) as refusal:
        [view.loss_mask for view in photo_views([file], Framing(32, masks="files"))]
    assert "3." in str(refusal.value) and "\n" not in str(refusal.value)


def test_photos_without_a_mask_have_a_mask_of_ones_among_masked_ones(tiny_pipe, tmp_path):
    files = [save(scene(48, 36), tmp_path / name) for name in ("a.png", "b.png")]
    (cache,) = encode_photos(tiny_pipe, photo_views(files, Framing(SIZE, masks="files")))
    assert cache.mask is None
    save(box_mask(48, 36, (12, 0, 36, 18)), tmp_path / "b.mask.png")
    (cache,) = encode_photos(tiny_pipe, photo_views(files, Framing(SIZE, masks="files")))
    assert cache.mask is not None and cache.mask.shape == (2, 1, SIZE // 8, SIZE // 8)
    assert (cache.mask[0] == 1).all()
    assert cache.mask[1, 0, 0].max() > 2 * cache.mask[1, 0, -1].max()


def test_the_loss_weights_each_place_by_the_mask():
    generator = torch.Generator().manual_seed(0)
    said, wanted = (torch.randn(2, 4, 3, 3, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 3, 3, generator=generator)
    by_hand = sum(
        float(mask[b, 0, y, x]) * float((said[b, c, y, x] - wanted[b, c, y, x]) ** 2)
        for b in range(2) for c in range(4) for y in range(3) for x in range(3)
    ) / 72  # fmt: skip
    assert denoising_loss(said, wanted, None, mask).item() == pytest.approx(by_hand, rel=1e-5)
    ones = torch.ones_like(mask)
    assert denoising_loss(said, wanted, None, ones) == denoising_loss(said, wanted)


def test_masked_batches_reach_the_loss(tiny_base, photo_folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.png"):
        save(scene(), photos / name)
        save(box_mask(48, 36, (6, 0, 42, 12)), photos / name.replace(".png", ".mask.png"))
    options = tiny_options(tiny_base, photos, tmp_path / "runs", mask_floor=0.0)
    subject, batches = tiny_subject(options)
    from nora_studio.tasks.dreambooth.step import DreamboothStep

    step = DreamboothStep(subject.pipe.unet, {}, subject.text, subject.process)
    said: list[torch.Tensor] = []
    subject.pipe.unet.register_forward_hook(lambda module, given, out: said.append(out[0]))
    batch = batches.next()
    assert batch["mask"].shape == (2, 1, SIZE // 8, SIZE // 8)
    with torch.no_grad():
        loss = step(**batch).item()
    errors = (said[0] - batch["noise"]).square()
    assert loss == pytest.approx((errors * batch["mask"]).mean().item(), rel=1e-5)
    assert loss != pytest.approx(errors.mean().item(), rel=1e-3)
