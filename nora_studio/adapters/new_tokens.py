"""New tokens for a subject: words with trained vectors, added to a pipeline's frozen embeddings.

The frozen tables are unchanged, to the bit, and the new tokens' rows are kept separately: so twins
share one base, and only the rows have gradients. This is textual inversion (arXiv 2208.01618) in
both of SDXL's text encoders; trained together with an adapter it is pivotal tuning
(github.com/cloneofsimo/lora).
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
"""`eos_token_id` in the config of SDXL's second encoder; with it, transformers takes a prompt's
largest id for its end."""
_NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")


@dataclass(frozen=True)
class NewTokens:
    """New words, and their vectors in each text encoder."""

    words: tuple[str, ...]
    """As written in prompts: "<mug>", or "<mug-1>", "<mug-2>"."""
    rows: dict[str, Tensor]
    """Part -> (words, width), float32."""

    @property
    def trigger(self) -> str:
        """The text that replaces "[V]"."""
        return " ".join(self.words)


def token_words(name: str, count: int) -> tuple[str, ...]:
    """Return the words of new tokens: "<mug>" for one, "<mug-1>", "<mug-2>" and so on for several.

    Raises:
        StudioError: the name has characters that such a word cannot have.
    """
    if not _NAME.fullmatch(name):
        raise StudioError(
            "--trigger: as the name of new tokens, expected lower-case letters a to z and digits, "
            f"with single hyphens or underscores between them; got {name!r}."
        )
    return (f"<{name}>",) if count == 1 else tuple(f"<{name}-{n + 1}>" for n in range(count))


def join_tokens(several: Sequence[NewTokens | None]) -> NewTokens | None:
    """Return the new tokens of several adapters together; None if none has any.

    Raises:
        StudioError: two adapters have tokens of the same name.
    """
    found = [tokens for tokens in several if tokens is not None]
    words = tuple(word for tokens in found for word in tokens.words)
    repeated = next((word for word in words if words.count(word) > 1), None)
    if repeated is not None:
        raise StudioError(
            f"two of the adapters have a new token {repeated}, each with different vectors. Train "
            "one of them with another --trigger, or combine adapters of different ones."
        )
    if not found:
        return None
    return NewTokens(
        words, {part: torch.cat([tokens.rows[part] for tokens in found]) for part in TOKENIZERS}
    )


class ExtendedEmbedding(nn.Embedding):
    """A frozen embedding with additional rows for the ids from `first` on.

    It shares the frozen embedding's weight and has the same `state_dict`. The rows are trained and
    saved separately, in float32, and rounded to the embedding's dtype in `forward`.
    """

    def __init__(self, table: nn.Embedding, first: int, rows: Tensor) -> None:
        """Extend `table` by `rows`, (tokens, width)."""
        size, width = table.weight.shape
        super().__init__(size, width, table.padding_idx, _weight=table.weight)
        self.weight = table.weight
        self.first = first
        self.rows = nn.Parameter(rows.detach().to(table.weight.device, torch.float32).clone())
        self.rows.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """Look up (..., tokens) ids as (..., tokens, width) vectors."""
        index = input - self.first
        is_new = (index >= 0) & (index < len(self.rows))
        known = super().forward(input.masked_fill(is_new, 0))
        new = F.embedding(index.masked_fill(~is_new, 0), self.rows)
        return torch.where(is_new[..., None], new.to(known.dtype), known)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}rows"]


def extended_embedding(encoder: nn.Module) -> ExtendedEmbedding | None:
    """Return the embedding of a text encoder with new tokens; None if it has none."""
    table = encoder.get_input_embeddings()  # pyright: ignore
    return table if isinstance(table, ExtendedEmbedding) else None


def extend(pipe: StableDiffusionXLPipeline, tokens: NewTokens) -> None:
    """Add new tokens to a pipeline, in place.

    Its tokenizers are replaced by copies that know the words, and its encoders' embeddings by ones
    that share their weight, so other holders of these objects see no change.

    Raises:
        StudioError: a tokenizer has one of the words already, or the rows have another width than
            the embedding. The pipeline is unchanged then.
    """
    tokenizers = {part: _with_words(pipe, part, tokens) for part in TOKENIZERS}
    for part, tokenizer in tokenizers.items():
        setattr(pipe, TOKENIZERS[part], tokenizer)
        encoder: Any = getattr(pipe, part)
        first = tokenizer.convert_tokens_to_ids(tokens.words[0])
        table = encoder.get_input_embeddings()
        encoder.set_input_embeddings(ExtendedEmbedding(table, first, tokens.rows[part]))
        for module in _modules_with_legacy_eos(encoder):
            # Otherwise the pooled output would be read at a new token, whose id is the largest.
            module.eos_token_id = tokenizer.eos_token_id


def _with_words(pipe: StableDiffusionXLPipeline, part: str, tokens: NewTokens) -> Any:
    """Return a copy of a part's tokenizer that knows the words; check that they fit the part."""
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


def _modules_with_legacy_eos(encoder: nn.Module) -> list[Any]:
    return [m for m in encoder.modules() if getattr(m, "eos_token_id", None) == LEGACY_EOS]


@contextmanager
def temporary_tokens(pipe: StableDiffusionXLPipeline, tokens: NewTokens | None) -> Iterator[None]:
    """Add new tokens to a pipeline within a `with` block; None changes nothing.

    After the block, or an error in it, the pipeline has its own tokenizers and embeddings again.

    Raises:
        StudioError: for the same reasons as `extend`.
    """
    if tokens is None:
        yield
        return
    tokenizers = {name: getattr(pipe, name) for name in TOKENIZERS.values()}
    encoders = [getattr(pipe, part) for part in TOKENIZERS]
    tables = [encoder.get_input_embeddings() for encoder in encoders]
    ends = [module for encoder in encoders for module in _modules_with_legacy_eos(encoder)]
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
    """Write new tokens into a pipeline's own embeddings, to be saved with it.

    Raises:
        StudioError: for the same reasons as `extend`; the pipeline is unchanged then.
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
        for module in _modules_with_legacy_eos(encoder):
            module.eos_token_id = tokenizer.eos_token_id
