"""Datasets and shots: CoOp's layout, any folder, the drawn set, and the protocol's draw."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.mini.world import CLASSES, sample_scenes, write_captions
from nora_studio.mini.world.newcomers import NEWCOMERS
from nora_studio.tasks.fewshot.datasets import COOP, find_dataset, record_of
from nora_studio.tasks.fewshot.pictures import ShotBatches, ShotPictures
from nora_studio.tasks.fewshot.shots import divide, sample_shots

FEW = {"train": 2, "val": 1, "test": 1}


def paint(file, shade: int, size=(40, 36)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(shade).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def coop(tmp_path):
    """DTD's layout with two classes, one of two words."""
    layout = COOP["dtd"]
    rows = {
        split: [[f"{name}/{split}{n}.png", label, name] for label, name in
                enumerate(["polka_dotted", "woven"]) for n in range(3)]
        for split in ("train", "val", "test")
    }  # fmt: skip
    for number, (path, _, _) in enumerate(row for own in rows.values() for row in own):
        paint(tmp_path / layout.images / path, number)
    (tmp_path / layout.split).write_text(json.dumps(rows))
    return tmp_path


def test_coops_layout_is_read_split_by_split(coop):
    dataset = find_dataset("dtd", coop)
    assert dataset.classes == ("polka dotted", "woven")
    assert {name: len(own) for name, own in dataset.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), 6
    )
    picture, label = dataset.splits["test"][4]
    assert (picture.name, label) == ("woven/test1.png", 1)
    assert picture.open().size == (36, 40)


def test_a_set_that_is_not_there_is_told_with_its_remedy(coop, tmp_path):
    with pytest.raises(StudioError, match="--data-dir"):
        find_dataset("food101", None)
    with pytest.raises(StudioError, match=r"split_zhou_Food101\.json cannot be read"):
        find_dataset("food101", coop)
    shutil.rmtree(coop / COOP["dtd"].images / "polka_dotted")
    with pytest.raises(StudioError, match=r"polka_dotted/train0\.png is not there"):
        find_dataset("dtd", coop)
    with pytest.raises(StudioError, match="expected embedded, food101"):
        find_dataset("cifar", None)
    (tmp_path / "lonely" / "cats").mkdir(parents=True)
    with pytest.raises(StudioError, match="two or more classes"):
        find_dataset(str(tmp_path / "lonely"), None)


def test_any_folder_of_folders_is_parted_the_same_way_always(tmp_path):
    for name in ("red_fox", "hen"):
        for number in range(10):
            paint(tmp_path / "farm" / name / f"{number}.jpg", number)
    first, second = (find_dataset(str(tmp_path / "farm"), None) for _ in range(2))
    assert first.classes == ("hen", "red fox")
    names = {split: [one.name for one, _ in own] for split, own in first.splits.items()}
    assert names == {split: [one.name for one, _ in own] for split, own in second.splits.items()}
    assert [len(own) for own in names.values()] == [10, 4, 6]
    assert len({name for own in names.values() for name in own}) == 20
    assert "split with seed 0" in first.note


def test_shots_are_drawn_as_clip_lora_draws_them():
    train = [(f"train{n}", n % 3) for n in range(30)]
    validation = [(f"val{n}", n % 3) for n in range(18)]
    random.seed(7)
    reference_val, reference_train = [], []
    for pool, count, chosen in ((validation, 4, reference_val), (train, 8, reference_train)):
        by_label: dict[int, list] = {}
        for item in pool:
            by_label.setdefault(item[1], []).append(item)
        for items in by_label.values():
            chosen.extend(random.sample(items, count))
    assert sample_shots(train, validation, 8, 7) == (reference_train, reference_val)
    assert sample_shots(train, validation, 8, 8) != (reference_train, reference_val)
    assert [len(own) for own in sample_shots(train, validation, 2, 7)] == [6, 6]
    with pytest.raises(StudioError, match=r"at least 11 training images .* has 10"):
        sample_shots(train, validation, 11, 7)
    with pytest.raises(StudioError, match="at least 3 images"):
        divide(train[:7])


def test_the_drawn_set_shows_what_no_caption_of_the_world_names():
    heard = " ".join(
        caption for own in write_captions(sample_scenes(3000, 0), 0) for caption in own
    ).split()
    new = {word for name in NEWCOMERS for word in name.split()} - set(CLASSES)
    assert len(new) == 18
    assert new & set(heard) == set()


def test_the_drawn_set_is_the_same_wherever_it_is_drawn():
    one, other = (find_dataset("embedded", None, FEW) for _ in range(2))
    assert record_of(one.splits["val"], "val") == record_of(other.splits["val"], "val")
    pixels = [np.asarray(picture.open()) for picture, _ in one.splits["val"]]
    assert len({array.tobytes() for array in pixels}) == len(NEWCOMERS)
    others = [np.asarray(picture.open()) for picture, _ in one.splits["test"]]
    assert not {array.tobytes() for array in pixels} & {array.tobytes() for array in others}


def test_draws_go_through_every_picture_and_on_from_where_they_were_saved(tmp_path):
    for number in range(5):
        paint(tmp_path / "a" / f"{number}.png", number)
        paint(tmp_path / "b" / f"{number}.png", 10 + number, (34, 52))
    dataset = find_dataset(str(tmp_path), None)
    chosen = [pair for own in dataset.splits.values() for pair in own]
    pictures = ShotPictures(chosen, torch.device("cpu"))
    batches = ShotBatches(pictures, 4, 0, augment=True)
    seen = [batches.next() for _ in range(5)]
    places = torch.cat([batch["places"] for batch in seen])
    assert sorted(places[:10].tolist()) == sorted(places[10:].tolist()) == list(range(10))
    state = batches.state()
    following = batches.next()
    again = ShotBatches(pictures, 4, 99, augment=True)
    again.restore(state)
    repeated = again.next()
    assert all(torch.equal(following[name], repeated[name]) for name in following)
    plain = ShotBatches(pictures, 4, 0, augment=False).next()
    assert torch.equal(plain["places"], seen[0]["places"]) and not plain["flips"].any()
    views = pictures.views(plain["places"], plain["boxes"], plain["flips"], 16)
    assert views.shape == (4, 3, 16, 16)
