"""Prior preservation: class pictures drawn once, and a loss of two means."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.tiny import SIZE
from support.trainer import tiny_options, tiny_subject

from nora_studio.errors import StudioError
from nora_studio.tasks.dreambooth.prior import PriorBatches, class_prompt, generate_class_images

MUG = "a photo of a mug"


def draw(pipe, folder, count=3, prompt=MUG, on_image=None):
    return generate_class_images(pipe, folder, count, "tiny", prompt, SIZE, on_image)


@pytest.fixture
def paired(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path, prior_weight=0.5, class_pictures=2)
    subject, batches = tiny_subject(options)
    assert isinstance(batches, PriorBatches)
    return subject, batches


def test_the_class_is_the_prompt_without_its_subject():
    assert class_prompt("a photo of a [V] mug") == MUG


def test_class_pictures_are_drawn_once_and_gone_on_with(tiny_pipe, tmp_path):
    drawn: list[int] = []
    files = draw(tiny_pipe, tmp_path / "mugs", on_image=lambda done, total: drawn.append(total))
    assert drawn == [3, 3, 3] and len(files) == 3
    pixels = [Image.open(file).tobytes() for file in files]
    assert len(set(pixels)) == 3
    files[1].unlink()
    again = draw(tiny_pipe, tmp_path / "mugs", on_image=lambda done, total: drawn.append(total))
    assert drawn == [3, 3, 3, 1]
    assert [Image.open(file).tobytes() for file in again] == pixels


def test_a_persons_own_pictures_count(tiny_pipe, tmp_path):
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "mine.png")
    files = draw(tiny_pipe, tmp_path, count=2)
    assert sorted(file.name for file in files) == ["drawn-00000.png", "mine.png"]


def test_pictures_of_another_class_are_refused(tiny_pipe, tmp_path):
    draw(tiny_pipe, tmp_path, count=1)
    with pytest.raises(StudioError, match=r"--class-dir.*a photo of a mug"):
        draw(tiny_pipe, tmp_path, count=1, prompt="a photo of a dog")


def test_the_loss_is_the_subjects_mean_plus_the_weighted_class_mean(paired):
    subject, batches = paired
    batch = batches.next()
    answer = torch.zeros_like(batch["noise"])

    def loss(rows: slice, importance=None):
        names = ("latents", "noise", "timesteps")
        given = [batch[name][rows] for name in names]
        return subject.process.loss(answer[rows], *given, importance)

    whole = loss(slice(None), batch["importance"])
    torch.testing.assert_close(whole, loss(slice(2)) + 0.5 * loss(slice(2, None)))
    # Two processes that take half of the rows each and average say the same.
    halves = [loss(rows, batch["importance"][rows]) for rows in (slice(2), slice(2, None))]
    torch.testing.assert_close(whole, sum(halves) / 2)


def test_class_rows_carry_the_class_prompt(paired):
    subject, batches = paired
    numbers = batches.next()["prompts"]
    assert numbers[:2].tolist() == [0, 0] and numbers[2:].tolist() == [1, 1]
    ids = subject.text.ids["text_encoder"]
    assert not torch.equal(ids[0], ids[1])


def test_paired_draws_go_on_where_their_state_was_taken(paired):
    _, batches = paired
    for _ in range(3):
        batches.next()
    state = {name: tensor.clone() for name, tensor in batches.state().items()}
    expected = [batches.next() for _ in range(4)]
    batches.restore(state)
    for batch in expected:
        again = batches.next()
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def test_subject_and_class_do_not_share_their_noise(paired):
    _, batches = paired
    noise = batches.next()["noise"]
    assert not torch.equal(noise[:2], noise[2:])


def test_the_class_is_learned_only_with_a_weight(tiny_base, photo_folder, tmp_path):
    options = tiny_options(tiny_base, photo_folder, tmp_path)
    _, batches = tiny_subject(replace(options, prior_weight=0.0))
    assert "importance" not in batches.next() and not (tmp_path / "class-pictures").exists()
