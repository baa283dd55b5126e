"""New tokens added to frozen embeddings: only their rows are learned, and nothing else changes."""

import json

import pytest
import torch
from support.tiny import RARE_TOKEN, states, tiny_sdxl
from support.tokens import drawn_tokens
from support.trainer import tiny_options
from torch import nn

from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.new_tokens import (
    TOKENIZERS,
    NewTokens,
    extend,
    extended_embedding,
    join_tokens,
    temporary_tokens,
    token_words,
)
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import load_sdxl, parts_of, share_weights
from nora_studio.tasks.dreambooth.settings import resolve
from nora_studio.tasks.dreambooth.step import encode_prompts
from nora_studio.tasks.dreambooth.token_training import TokenRows, name_tokens, start_words

PROMPTS = ["a photo of a [V] mug in the snow", "a photo of a mug", ""]


def read(pipe, prompt: str, trigger: str) -> tuple[torch.Tensor, torch.Tensor]:
    text = encode_prompts(pipe, [prompt], trigger)
    return torch.cat([text.hidden[part] for part in TOKENIZERS], dim=-1), text.pooled


def test_an_added_row_is_read_like_one_of_the_table(tiny_base):
    """A token whose vector is a known word's own is that word, in every output."""
    bare, pipe = load_sdxl(str(tiny_base)), load_sdxl(str(tiny_base))
    number = bare.tokenizer.convert_tokens_to_ids("snow</w>")
    rows = {
        part: getattr(bare, part).get_input_embeddings().weight[[number]] for part in TOKENIZERS
    }
    extend(pipe, NewTokens(("<mug>",), rows))
    for one, other in zip(
        read(pipe, PROMPTS[0], "<mug>"), read(bare, PROMPTS[0], "snow"), strict=True
    ):
        assert torch.equal(one, other)
    for one, other in zip(read(pipe, PROMPTS[1], ""), read(bare, PROMPTS[1], ""), strict=True):
        assert torch.equal(one, other)


def test_extending_changes_no_weight_and_no_fingerprint(tiny_pipe):
    parts = parts_of(tiny_pipe)
    before, prints = states(parts), {part: fingerprint(m) for part, m in parts.items()}
    tables = [getattr(tiny_pipe, part).get_input_embeddings().weight for part in TOKENIZERS]
    extend(tiny_pipe, drawn_tokens("<mug-1>", "<mug-2>"))
    assert {part: fingerprint(m) for part, m in parts.items()} == prints
    after = states(parts)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    for part, table in zip(TOKENIZERS, tables, strict=True):
        assert getattr(tiny_pipe, part).get_input_embeddings().weight is table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_rows_of_a_frozen_encoder_get_gradients(tiny_base, dtype):
    pipe = load_sdxl(str(tiny_base), dtype)
    tokens = drawn_tokens("<mug-1>", "<mug-2>")
    extend(pipe, tokens)
    twins = [{part: share_weights(getattr(pipe, part)) for part in TOKENIZERS} for _ in range(2)]
    first, second = (TokenRows.of(tokens, encoders, rate=0.1) for encoders in twins)
    ids = pipe.tokenizer("a <mug-2> mug", return_tensors="pt").input_ids
    for part, encoder in twins[0].items():
        encoder(ids, output_hidden_states=True).hidden_states[-2].float().square().sum().backward()
        trained = [name for name, p in encoder.named_parameters() if p.grad is not None]
        assert [name.rpartition(".")[2] for name in trained] == ["rows"]
        gradient = first.rows[part].grad
        assert gradient is not None and gradient.dtype == torch.float32
        assert gradient[0].abs().max() == 0 and gradient[1].abs().max() > 0  # one was in the prompt
        assert torch.equal(first.rows[part], tokens.rows[part])  # not rounded to the base's dtype
        assert torch.equal(second.rows[part], tokens.rows[part])
        assert second.rows[part].grad is None  # each twin has its own
        base = extended_embedding(getattr(pipe, part))
        assert base is not None and not base.rows.requires_grad


@pytest.mark.parametrize("fails", [False, True])
def test_a_pipeline_is_restored_after_the_block_even_after_an_error(tiny_pipe, fails):
    kept = [tiny_pipe.tokenizer, tiny_pipe.tokenizer_2]
    tables = [getattr(tiny_pipe, part).get_input_embeddings() for part in TOKENIZERS]
    vocabulary = len(tiny_pipe.tokenizer)
    before = read(tiny_pipe, PROMPTS[0], RARE_TOKEN)
    try:
        with temporary_tokens(tiny_pipe, drawn_tokens("<mug>")):
            assert len(tiny_pipe.tokenizer) == len(tiny_pipe.tokenizer_2) == vocabulary + 1
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert tiny_pipe.tokenizer is kept[0] and tiny_pipe.tokenizer_2 is kept[1]
    assert len(tiny_pipe.tokenizer) == vocabulary
    for part, table in zip(TOKENIZERS, tables, strict=True):
        assert getattr(tiny_pipe, part).get_input_embeddings() is table
    for one, other in zip(before, read(tiny_pipe, PROMPTS[0], RARE_TOKEN), strict=True):
        assert torch.equal(one, other)


@pytest.fixture(scope="module")
def legacy_base(tmp_path_factory):
    """A base whose second encoder's config has the end of prompts that SDXL is published with."""
    folder = tiny_sdxl(tmp_path_factory.mktemp("legacy") / "sdxl")
    file = folder / "text_encoder_2" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 2}))
    return folder


def test_pooled_text_is_read_at_the_prompts_end_with_any_config(legacy_base, tiny_base):
    legacy, right = load_sdxl(str(legacy_base)), load_sdxl(str(tiny_base))
    for prompt in PROMPTS:  # without new tokens both find the same end
        assert torch.equal(read(legacy, prompt, "")[1], read(right, prompt, "")[1])
    tokens = drawn_tokens("<mug>")
    with temporary_tokens(legacy, tokens), temporary_tokens(right, tokens):
        snow = read(legacy, "a [V] mug in the snow", "<mug>")[1]
        assert torch.equal(snow, read(right, "a [V] mug in the snow", "<mug>")[1])
        # Read at the token's own place, what follows it would not be there.
        assert not torch.equal(snow, read(legacy, "a [V] mug on the beach", "<mug>")[1])
    ends = [getattr(m, "eos_token_id", None) for m in legacy.text_encoder_2.modules()]
    assert 2 in ends  # as it was


def test_a_word_that_is_there_and_rows_of_another_model_are_refused(tiny_pipe):
    before = tiny_pipe.tokenizer
    again = drawn_tokens("<mug>")
    known = pytest.raises(StudioError, match="<mug> is a token of this model already")
    with temporary_tokens(tiny_pipe, again), known:
        extend(tiny_pipe, again)
    wide = NewTokens(("<mug>",), {part: torch.zeros(1, 48) for part in TOKENIZERS})
    with pytest.raises(StudioError, match=r"shape \(1, 32\).*they have \(1, 48\)"):
        extend(tiny_pipe, wide)
    assert tiny_pipe.tokenizer is before
    assert type(tiny_pipe.text_encoder.get_input_embeddings()) is nn.Embedding


def test_words_are_numbered_if_there_are_several():
    assert token_words("my-mug", 1) == ("<my-mug>",)
    assert token_words("mug", 3) == ("<mug-1>", "<mug-2>", "<mug-3>")
    for bad in ("My mug", "mug>", "", "<mug>", "-mug"):
        with pytest.raises(StudioError, match="--trigger"):
            token_words(bad, 1)


def test_tokens_of_several_adapters_are_joined_unless_they_share_a_name():
    mug, dog = drawn_tokens("<mug-1>", "<mug-2>"), drawn_tokens("<dog>", seed=4)
    both = join_tokens([mug, None, dog])
    assert both is not None and both.words == ("<mug-1>", "<mug-2>", "<dog>")
    for part in TOKENIZERS:
        assert torch.equal(both.rows[part], torch.cat([mug.rows[part], dog.rows[part]]))
    assert join_tokens([None, None]) is None
    with pytest.raises(StudioError, match=r"<dog>.*--trigger"):
        join_tokens([dog, drawn_tokens("<dog>", seed=5)])


def starts(pipe, photos, tmp_path, **changes) -> torch.Tensor:
    options = tiny_options(tmp_path, photos, tmp_path, resolution=64, **changes)
    tokens = resolve(options).tokens
    start = start_words(pipe, tokens)
    return name_tokens(pipe, tokens, start, options.seed).rows["text_encoder"]


def test_tokens_start_near_the_class_word_and_differ(tiny_pipe, photo_folder, tmp_path):
    table = tiny_pipe.text_encoder.get_input_embeddings().weight
    known = {
        w: table[tiny_pipe.tokenizer.convert_tokens_to_ids(f"{w}</w>")] for w in ("mug", "dog")
    }
    four = starts(tiny_pipe, photo_folder, tmp_path, new_tokens=4)
    assert torch.equal(four[0], known["mug"])  # the word after [V]
    for row in four[1:]:
        distance = (row - known["mug"]).norm() / known["mug"].norm()
        assert 0.05 < distance < 0.2
    assert len({row.numpy().tobytes() for row in four}) == 4
    assert torch.equal(four, starts(tiny_pipe, photo_folder, tmp_path, new_tokens=4))
    two = starts(tiny_pipe, photo_folder, tmp_path, new_tokens=2, token_init="dog mug")
    assert torch.equal(two, torch.stack([known["dog"], known["mug"]]))
    prompt = {"prompt": "a photo of [V]", "trigger": "cup"}
    rare = starts(tiny_pipe, photo_folder, tmp_path, new_tokens=1, token_init=RARE_TOKEN, **prompt)
    number = tiny_pipe.tokenizer.convert_tokens_to_ids(f"{RARE_TOKEN}</w>")
    assert torch.equal(rare[0], table[number])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"new_tokens": 9}, "--new-tokens: expected 0 to 8; got 9"),
        ({"new_tokens": -1}, "--new-tokens"),
        ({"new_tokens": 1, "token_rate": 0.0}, "--token-rate"),
        ({"new_tokens": 1, "token_init": " "}, "--token-init"),
        ({"new_tokens": 1, "trigger": "My Mug"}, "--trigger"),
        ({"new_tokens": 1, "caption_dropout": 1.0}, "--caption-dropout 1"),
        ({"token_rate": 0.1}, "--token-rate needs --new-tokens"),
        ({"token_init": "mug"}, "--token-init needs --new-tokens"),
    ],
)
def test_options_without_an_effect_are_refused(tmp_path, changes, words):
    with pytest.raises(StudioError) as refusal:
        tiny_options(tmp_path, tmp_path, tmp_path, **changes)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_rate_is_recommended_only_where_there_are_tokens(tmp_path):
    assert tiny_options(tmp_path, tmp_path, tmp_path).token_rate is None
    assert tiny_options(tmp_path, tmp_path, tmp_path, new_tokens=1).token_rate == 5e-4
