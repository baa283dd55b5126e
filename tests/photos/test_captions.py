"""Captions: every photo is trained with its own, and mistakes in caption files are named."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import RARE_TOKEN
from support.trainer import PROMPT, tiny_options, tiny_subject

from nora_studio.errors import StudioError
from nora_studio.photos.captions import read_captions
from nora_studio.photos.prompts import replace_token
from nora_studio.tasks.dreambooth.batches import PhotoBatches
from nora_studio.tasks.dreambooth.step import DreamboothStep, encode_prompts

OTHER = "a picture of my [V] cup in the snow"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")]


def refusal_of(photos: list[Path]) -> str:
    with pytest.raises(StudioError) as refusal:
        read_captions(photos)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_caption_belongs_to_the_photo_of_its_name(photos):
    (photos[0].parent / "c.txt").write_text("\ufeff a [V]  mug\n on a größer table\n", "utf-8")
    assert read_captions(photos) == [None, None, "a [V] mug on a größer table"]


def test_metadata_lines_caption_photos_and_a_text_file_wins(photos):
    folder = photos[0].parent
    lines = [
        '{"file_name": "a.jpg", "text": "a [V] mug"}',
        "",
        '{"file_name": "c.png", "text": "[v]"}',
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    assert read_captions(photos) == ["a [V] mug", None, "[v]"]
    (folder / "a.txt").write_text("my [V]", "utf-8")
    assert read_captions(photos) == ["my [V]", None, "[v]"]


@pytest.mark.parametrize("text", ["a red mug", "", "[W] mug"])
def test_a_caption_without_the_subject_is_refused_by_file(photos, text):
    (photos[1].with_suffix(".txt")).write_text(text, "utf-8")
    told = refusal_of(photos)
    assert "b.txt" in told and "[V]" in told and "--no-captions" in told


@pytest.mark.parametrize(
    "line",
    ["not json", '["a.jpg"]', '{"file_name": "a.jpg"}', '{"file_name": 3, "text": "[V]"}',
     '{"file_name": "z.jpg", "text": "[V]"}', '{"file_name": "a.jpg", "text": "no subject"}'],
)  # fmt: skip
def test_a_bad_metadata_line_is_refused_by_number(photos, line):
    good = '{"file_name": "b.jpg", "text": "a [V]"}'
    (photos[0].parent / "metadata.jsonl").write_text(f"{good}\n{line}\n", "utf-8")
    assert "metadata.jsonl, line 2" in refusal_of(photos)


def test_a_caption_that_is_no_text_is_refused(photos):
    photos[0].with_suffix(".txt").write_bytes(b"\xff\xfe\x00[V]")
    assert "a.txt" in refusal_of(photos)


@pytest.mark.parametrize("live", [(), ("text_encoder", "text_encoder_2")], ids=["frozen", "live"])
def test_each_image_of_a_batch_gets_its_own_caption(tiny_base, photo_folder, tmp_path, live):
    subject, batches = tiny_subject(tiny_options(tiny_base, photo_folder, tmp_path))
    pipe, prompts = subject.pipe, [PROMPT, OTHER]
    heard: list[dict] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, given, named: heard.append({"text": given[2], **named["added_cond_kwargs"]}),
        with_kwargs=True,
    )
    text = encode_prompts(pipe, prompts, RARE_TOKEN)
    encoders = {part: getattr(pipe, part) for part in live}
    step = DreamboothStep(pipe.unet, encoders, text, subject.process)
    batch = batches.next() | {"prompts": torch.tensor([1, 0])}
    with torch.no_grad():
        step(**batch)
        for row, prompt in enumerate((OTHER, PROMPT)):
            hidden, _, pooled, _ = pipe.encode_prompt(
                replace_token(prompt, RARE_TOKEN), do_classifier_free_guidance=False
            )
            torch.testing.assert_close(heard[0]["text"][row], hidden[0])
            torch.testing.assert_close(heard[0]["text_embeds"][row], pooled[0])


@pytest.mark.parametrize("live", [(), ("text_encoder", "text_encoder_2")], ids=["frozen", "live"])
def test_an_image_without_a_caption_gets_the_empty_prompt_of_guidance(
    tiny_base, photo_folder, tmp_path, live
):
    options = tiny_options(tiny_base, photo_folder, tmp_path, caption_dropout=0.5)
    subject, batches = tiny_subject(options)
    pipe = subject.pipe
    heard: list[dict] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, given, named: heard.append({"text": given[2], **named["added_cond_kwargs"]}),
        with_kwargs=True,
    )
    encoders = {part: getattr(pipe, part) for part in live}
    step = DreamboothStep(pipe.unet, encoders, subject.text, subject.process)
    drawn = [batches.next() for _ in range(20)]
    batch = next(one for one in drawn if sorted(one["prompts"].tolist()) == [0, 1])
    with torch.no_grad():
        step(**batch)
        spoken, silent, pooled, silent_pooled = pipe.encode_prompt(
            replace_token(PROMPT, RARE_TOKEN), do_classifier_free_guidance=True
        )
    for row, prompt in enumerate(batch["prompts"].tolist()):
        for name, expected in (
            ("text", (spoken, silent)[prompt]),
            ("text_embeds", (pooled, silent_pooled)[prompt]),
        ):
            torch.testing.assert_close(heard[0][name][row], expected[0])


def test_batches_hold_each_photos_number(tiny_base, photo_folder, tmp_path):
    _, batches = tiny_subject(tiny_options(tiny_base, photo_folder, tmp_path))
    assert isinstance(batches, PhotoBatches)
    (cache,) = batches.caches
    exact = replace(cache, std=torch.zeros_like(cache.std))
    numbers = torch.arange(len(exact.mean)).flip(0)
    batches = PhotoBatches(exact, 2, 1000, seed=0, prompts=numbers)
    for _ in range(4):
        batch = batches.next()
        for latents, number in zip(batch["latents"], batch["prompts"], strict=True):
            assert torch.equal(latents, exact.mean[numbers == number][0])
