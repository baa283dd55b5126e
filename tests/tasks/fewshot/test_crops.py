"""Crops as matrix products: torchvision's and PIL's own, box by box, and drawn to be resumed."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from nora_studio.tasks.fewshot.crops import middle_box, resample, sample_boxes

SIZES = [(40, 61), (64, 48), (33, 33)]


def pictures(height: int, width: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("size", [16, 32, 90], ids=["smaller", "near", "larger"])
def test_a_crop_is_torchvisions_own(height, width, size):
    images = pictures(height, width)
    boxes = sample_boxes(torch.tensor([[height, width]] * 3), torch.Generator().manual_seed(size))
    made = resample(images, boxes, size)
    for image, box, ours in zip(images, boxes.tolist(), made, strict=True):
        theirs = resized_crop(
            image.double(),
            *box,
            size=[size, size],
            interpolation=InterpolationMode.BICUBIC,
            antialias=True,
        ).clamp(0, 255)
        assert (ours.double() - theirs).abs().max() < 2e-3


def test_a_crop_is_pils_own_up_to_its_rounding_to_bytes():
    down, right = torch.meshgrid(torch.arange(61), torch.arange(80), indexing="ij")
    smooth = 127 + 90 * torch.sin(down / 7) * torch.cos(right / 9)
    image = torch.stack([smooth, smooth.flip(0), smooth.flip(1)])[None].round().byte()
    box = torch.tensor([[5, 11, 40, 37]])
    made = resample(image, box, 24)[0]
    whole = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    theirs = whole.crop((11, 5, 48, 45)).resize((24, 24), Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(theirs, dtype=float) - made.permute(1, 2, 0).numpy())
    assert apart.max() <= 1.01


def test_a_flip_is_the_mirror_of_the_same_crop():
    images = pictures(40, 61)
    boxes = sample_boxes(torch.tensor([[40, 61]] * 3), torch.Generator().manual_seed(0))
    flips = torch.tensor([True, False, True])
    plain, made = resample(images, boxes, 20), resample(images, boxes, 20, flips)
    assert torch.allclose(made[flips], plain[flips].flip(-1), atol=1e-3)
    assert torch.equal(made[1], plain[1])


def test_boxes_have_the_shares_and_shapes_of_random_resized_crop():
    sizes = torch.tensor([[120, 200]] * 4000)
    boxes = sample_boxes(sizes, torch.Generator().manual_seed(3)).double()
    torch.manual_seed(3)
    blank = torch.zeros(3, 120, 200)
    theirs = torch.tensor(
        [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    ).double()
    assert (boxes[:, 0] + boxes[:, 2] <= 120).all() and (boxes[:, 1] + boxes[:, 3] <= 200).all()
    for one, other in (
        (boxes[:, 2] * boxes[:, 3], theirs[:, 2] * theirs[:, 3]),
        ((boxes[:, 3] / boxes[:, 2]).log(), (theirs[:, 3] / theirs[:, 2]).log()),
        (boxes[:, 0], theirs[:, 0]),
        (boxes[:, 1], theirs[:, 1]),
    ):
        spread = other.std() * math.sqrt(2 / 4000)
        assert (one.mean() - other.mean()).abs() < 4 * spread
        assert 0.93 < one.std() / other.std() < 1.07


def test_boxes_go_on_from_a_saved_generator():
    sizes, generator = torch.tensor([[30, 20]] * 5), torch.Generator().manual_seed(1)
    sample_boxes(sizes, generator)
    state = generator.get_state()
    following = sample_boxes(sizes, generator)
    assert torch.equal(sample_boxes(sizes, torch.Generator().set_state(state)), following)


def test_a_picture_too_long_for_any_box_gives_its_middle():
    box = sample_boxes(torch.tensor([[4, 400]]), torch.Generator().manual_seed(0))[0].tolist()
    assert box[2] == 4 and box[3] <= 6
    assert middle_box(30, 20) == (5, 0, 20, 20)
