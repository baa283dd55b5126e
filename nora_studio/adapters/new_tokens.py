"""New tokens for a subject: words of a pipeline's own, with vectors beside its frozen tables.

The tables stay as they are, to the bit: a row for each new token stands beside them, so twins share
one base and only the rows have gradients. Textual inversion (arXiv 2208.01618) in both of SDXL's
text encoders; trained beside an adapter it is pivotal tuning (github.com/cloneofsimo/lora).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nora_studio.errors import StudioError

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""Part -> its tokenizer in the pipeline."""
LEGACY_EOS = 2
"""In SDXL's second encoder's config; transformers then takes a prompt's largest id for its end."""
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


@dataclass(frozen=True)
class NewTokens:
    """Words, and what each text encoder reads for them."""

    words: tuple[str, ...]
    """As they stand in prompts: "<mug>", or "<mug-1>", "<mug-2>"."""
    rows: dict[str, Tensor]
    """Part -> (words, width), float32."""

    @property
    def trigger(self) -> str:
        """What "[V]" becomes."""
        return " ".join(self.words)


def token_words(name: str, count: int) -> tuple[str, ...]:
    """Words of that name: "<mug>" for one, "<mug-1>", "<mug-2>" and so on for several.

    Raises:
        StudioError: the name has other characters than words of prompts can have.
    """
    if not _NAME.fullmatch(name):
        raise StudioError(
            "--trigger: as the name of new tokens, expected lower-case letters a to z, digits and "
            f"single hyphens; got {name!r}."
        )
    return (f"<{name}>",) if count == 1 else tuple(f"<{name}-{n + 1}>" for n in range(count))


def joined(several: Sequence[NewTokens | None]) -> NewTokens | None:
    """The new tokens of several adapters together; None where none has any.

    Raises:
        StudioError: two have tokens of one name, which stand for different vectors.
    """
    found = [tokens for tokens in several if tokens is not None]
    words = tuple(word for tokens in found for word in tokens.words)
    repeated = next((word for word in words if words.count(word) > 1), None)
    if repeated is not None:
        raise StudioError(
            f"two of the adapters have a new token {repeated}, each with vectors of its own. Train "
            "one of them with another --trigger, or combine adapters of different ones."
        )
    if not found:
        return None
    return NewTokens(
        words, {part: torch.cat([tokens.rows[part] for tokens in found]) for part in TOKENIZERS}
    )


class ExtendedEmbedding(nn.Embedding):
    """A frozen table of token vectors with rows of its own for the ids from `first` on.

    It shares the table's weight, and its `state_dict` is the table's: the rows are trained and
    saved by themselves, in float32, and rounded to the table's dtype where they are read.
    """

    def __init__(self, table: nn.Embedding, first: int, rows: Tensor) -> None:
        """Stand in for `table`; `rows` is (tokens, width)."""
        size, width = table.weight.shape
        super().__init__(size, width, table.padding_idx, _weight=table.weight)
        self.weight = table.weight
        self.first = first
        self.rows = nn.Parameter(rows.detach().to(table.weight.device, torch.float32).clone())
        self.rows.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Read (..., tokens) ids as (..., tokens, width) vectors."""
        place = input - self.first
        is_new = (place >= 0) & (place < len(self.rows))
        known = super().forward(input.masked_fill(is_new, 0))
        new = F.embedding(place.masked_fill(~is_new, 0), self.rows)
        return torch.where(is_new[..., None], new.to(known.dtype), known)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}rows"]


def extended(encoder: nn.Module) -> ExtendedEmbedding | None:
    """The table of a text encoder that has new tokens; None of one that has none."""
    table = encoder.get_input_embeddings()  # pyright: ignore
    return table if isinstance(table, ExtendedEmbedding) else None


def extend(pipe: StableDiffusionXLPipeline, tokens: NewTokens) -> None:
    """Give a pipeline new tokens, in place; nothing that others hold changes.

    Tokenizers are exchanged for copies that know the words, the encoders' tables for ones that
    share their weight.

    Raises:
        StudioError: a tokenizer has such a word already, or the rows have another width than the
            table. The pipeline is as it was then.
    """
    tokenizers = {part: _with_words(pipe, part, tokens) for part in TOKENIZERS}
    for part, tokenizer in tokenizers.items():
        setattr(pipe, TOKENIZERS[part], tokenizer)
        encoder: Any = getattr(pipe, part)
        first = tokenizer.convert_tokens_to_ids(tokens.words[0])
        table = encoder.get_input_embeddings()
        encoder.set_input_embeddings(ExtendedEmbedding(table, first, tokens.rows[part]))
        for module in _with_legacy_end(encoder):
            # Else the pooled output would be read at a new token, whose id is the largest.
            module.eos_token_id = tokenizer.eos_token_id


def _with_words(pipe: StableDiffusionXLPipeline, part: str, tokens: NewTokens) -> Any:
    """A copy of a part's tokenizer that knows the words, checked against the part."""
    tokenizer = copy.deepcopy(getattr(pipe, TOKENIZERS[part]))
    known = [word for word in tokens.words if word in tokenizer.get_vocab()]
    if known:
        raise StudioError(
            f"{known[0]} is a token of this model already, so a new one cannot have that name. "
            "Train with another --trigger."
        )
    width = getattr(pipe, part).get_input_embeddings().weight.shape[1]
    shape = tuple(tokens.rows[part].shape)
    if shape != (len(tokens.words), width):
        raise StudioError(
            f"the new tokens {tokens.trigger} should have shape {(len(tokens.words), width)} in "
            f"this model's {part}; they have {shape}. Load the model that they were trained on."
        )
    tokenizer.add_tokens(list(tokens.words))
    return tokenizer


def _with_legacy_end(encoder: nn.Module) -> list[Any]:
    return [m for m in encoder.modules() if getattr(m, "eos_token_id", None) == LEGACY_EOS]


@contextmanager
def tokens_on(pipe: StableDiffusionXLPipeline, tokens: NewTokens | None) -> Iterator[None]:
    """Give a pipeline new tokens for the length of a block; None leaves it as it is.

    Afterwards, errors included, it has its own tokenizers and tables again.

    Raises:
        StudioError: as `extend`.
    """
    if tokens is None:
        yield
        return
    tokenizers = {name: getattr(pipe, name) for name in TOKENIZERS.values()}
    encoders = [getattr(pipe, part) for part in TOKENIZERS]
    tables = [encoder.get_input_embeddings() for encoder in encoders]
    ends = [module for encoder in encoders for module in _with_legacy_end(encoder)]
    try:
        extend(pipe, tokens)
        yield
    finally:
        for name, tokenizer in tokenizers.items():
            setattr(pipe, name, tokenizer)
        for encoder, table in zip(encoders, tables, strict=True):
            encoder.set_input_embeddings(table)
        for module in ends:
            module.eos_token_id = LEGACY_EOS


def write_into(pipe: StableDiffusionXLPipeline, tokens: NewTokens) -> None:
    """Make new tokens the pipeline's own for good, in its tables, to be saved with it.

    Raises:
        StudioError: as `extend`; the pipeline is as it was then.
    """
    tokenizers = {part: _with_words(pipe, part, tokens) for part in TOKENIZERS}
    for part, tokenizer in tokenizers.items():
        setattr(pipe, TOKENIZERS[part], tokenizer)
        encoder: Any = getattr(pipe, part)
        size = max(len(tokenizer), len(encoder.get_input_embeddings().weight))
        encoder.resize_token_embeddings(size, mean_resizing=False)
        ids = tokenizer.convert_tokens_to_ids(list(tokens.words))
        weight = encoder.get_input_embeddings().weight
        weight.requires_grad_(False)[ids] = tokens.rows[part].to(weight.device, weight.dtype)
        if encoder.config.eos_token_id == LEGACY_EOS:
            encoder.config.eos_token_id = tokenizer.eos_token_id
        for module in _with_legacy_end(encoder):
            module.eos_token_id = tokenizer.eos_token_id
