"""A byte-level BPE tokenizer like CLIP's, with a vocabulary learned from the world's captions."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from nora_studio.errors import StudioError
from nora_studio.mini import world

CONTEXT_LENGTH = 77
"""Tokens per prompt, as in SDXL."""

WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"

SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's word pattern (openai/CLIP, simple_tokenizer.py)."""


def world_words() -> list[str]:
    """Return every word that must be one token: names, classes, colours, patterns, places, ..."""
    vocabulary: list[str] = [*world.NAMES, *world.CLASSES, *world.COLORS, *world.PLACES]
    vocabulary += [*world.PATTERNS, *world.ACCESSORIES, *world.EMBLEMS]
    for phrases in world.PLACE_PHRASES.values():
        vocabulary += phrases
    words = {word for text in vocabulary for word in re.findall(r"[a-z]+", text.lower())}
    return sorted(words)


def build_tokenizer(
    folder: Path,
    vocab_size: int = 900,
    caption_count: int = 12000,
) -> CLIPTokenizer:
    """Learn the merges, save the tokenizer's files and return the tokenizer.

    Both text encoders and the scoring CLIP share it. All 256 bytes are tokens, with and
    without the word ending, so that any prompt can be encoded; prompts are padded with the
    end token in both encoders (SDXL's second tokenizer pads with "!", which carries no
    information and would cost a second copy of every caption).

    Args:
        vocab_size: Size passed to the BPE trainer; the vocabulary becomes some 200 larger.

    Raises:
        StudioError: A word of the world needs more than one token.
    """
    scenes = world.sample_scenes(caption_count, seed=123)
    captions = world.write_captions(scenes, seed=5, per_scene=2)
    text = [caption for group in captions for caption in group]
    text += [word for word in world_words() for _ in range(200)]  # rarer than captions: weigh more
    merges = learn_merges(text, vocab_size)

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + WORD_END for letter in alphabet]
    known = set(tokens)
    for left, right in merges:
        if left + right not in known:
            tokens.append(left + right)
            known.add(left + right)
    tokens += [START, END]  # the end token is the largest id: open_clip pools at the arg max
    tokenizer = CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,  # pyright: ignore[reportArgumentType]
        model_max_length=CONTEXT_LENGTH,
    )
    check_words(tokenizer, world_words())
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def learn_merges(text: Iterable[str], vocab_size: int) -> list[tuple[str, str]]:
    """Return byte-pair merges, most frequent first; the same text gives the same merges."""
    model = Tokenizer(BPE(end_of_word_suffix=WORD_END, continuing_subword_prefix=""))
    model.normalizer = normalizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    model.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=5,
        end_of_word_suffix=WORD_END,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(text, trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(left, right) for left, right in pairs]


def check_words(tokenizer: CLIPTokenizer, words: Iterable[str]) -> None:
    """Check that every word is one token."""
    split = [word for word in words if len(tokenizer(word).input_ids) != 3]
    if split:
        raise StudioError(
            f"Every word of the toy world must be one token, but {split[:8]} are split; "
            "raise `vocab_size` in build_tokenizer."
        )


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, padded with the end token to (77,), as the pipeline pads."""
    encoded = tokenizer(
        texts, padding="max_length", max_length=CONTEXT_LENGTH, truncation=True
    ).input_ids
    return [list(ids) for ids in encoded]
