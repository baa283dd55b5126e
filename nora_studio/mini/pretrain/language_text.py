"""The embedded language model's tokenizer, and its corpus as token ids."""

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from nora_studio.mini.everyday.corpus import documents

PAD, START, END = "<pad>", "<s>", "</s>"
SPLIT = r"\s{2,}|'(?:s|t|re|ve|m|ll|d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"
"""Words with the space before them, single digits, and runs of spaces as one: an answer has the
same tokens whether it was encoded with its prompt or without."""
CONTEXT = 2048
"""Maximum number of tokens in a text."""
CHUNK = 20_000
"""Documents that a worker writes per task."""


def build_tokenizer(
    folder: Path, samples: Iterable[str], vocabulary: int, documents_read: int
) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from the corpus and sample texts, save it and return it.

    Args:
        samples: Other texts that should become few tokens, such as whole prompts.
        documents_read: Number of documents to read from the corpus.
    """
    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([*documents(-1, documents_read), *samples], trainer)
    model.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single=f"{START} $A", special_tokens=[(START, model.token_to_id(START))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def encode_corpus(count: int, seed: int, tokenizer_folder: Path) -> np.ndarray:  # (tokens,) int16
    """Encode every text of the corpus, with start and end tokens, into one array.

    Call before CUDA is first used, because the workers are forked.
    """
    sizes = [min(CHUNK, count - first) for first in range(0, count, CHUNK)]
    seeds = [seed * 100_003 + number for number in range(len(sizes))]
    file = str(tokenizer_folder / "tokenizer.json")
    workers = min(len(sizes), max(1, (os.cpu_count() or 2) - 1))
    if workers == 1:
        return np.concatenate([encode_chunk(s, n, file) for s, n in zip(seeds, sizes, strict=True)])
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        return np.concatenate(list(pool.map(encode_chunk, seeds, sizes, [file] * len(sizes))))


def encode_chunk(seed: int, count: int, tokenizer_file: str) -> np.ndarray:  # (tokens,) int16
    """Return the token ids of the texts that `seed` generates."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(tokenizer_file)
    end = [tokenizer.token_to_id(END)]
    encoded = tokenizer.encode_batch_fast(list(documents(seed, count)))
    return np.concatenate([np.asarray(text.ids + end, dtype=np.int16) for text in encoded])


def pad_texts(texts: Sequence[Sequence[int]], pad: int) -> np.ndarray:  # (texts, longest) int64
    """Pad texts of different lengths on the right into one array."""
    longest = max(map(len, texts))
    return np.asarray([[*text, *[pad] * (longest - len(text))] for text in texts])
