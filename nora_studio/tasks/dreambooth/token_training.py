"""Training of new tokens: their initial vectors, and each twin's own embedding rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from nora_studio.adapters.files.embeddings import read_embeddings
from nora_studio.adapters.files.identify import EMBEDDINGS
from nora_studio.adapters.new_tokens import TOKENIZERS, NewTokens, extended_embedding, token_words
from nora_studio.errors import StudioError
from nora_studio.sdxl.models import choose_trigger
from nora_studio.tasks.dreambooth.settings import TokenSettings

GROUP = "tokens"
"""Name of the rows' parameter group."""
NOISE = 0.1
"""Noise on a vector that is used again, relative to its root mean square."""


def name_tokens(
    pipe: StableDiffusionXLPipeline, tokens: TokenSettings, start: str, seed: int
) -> NewTokens:
    """Return a run's new tokens with their initial vectors.

    Args:
        start: Words whose vectors they start from.
        seed: Seed of the noise on vectors that are used again.

    Raises:
        StudioError: the name cannot be a word.
    """
    words = token_words(tokens.name, tokens.count)
    rows = {part: _start_rows(pipe, part, start, len(words), seed) for part in TOKENIZERS}
    return NewTokens(words, rows)


def start_words(pipe: StableDiffusionXLPipeline, tokens: TokenSettings) -> str:
    """Return the words whose vectors new tokens start from; a rare one if there are none."""
    return tokens.start if tokens.start else choose_trigger(pipe)


def _start_rows(
    pipe: StableDiffusionXLPipeline, part: str, words: str, count: int, seed: int
) -> Tensor:  # (count, width)
    """Repeat the vectors of the words' tokens, with noise from the second time, so they differ."""
    ids = getattr(pipe, TOKENIZERS[part])(words).input_ids[1:-1]
    table = getattr(pipe, part).get_input_embeddings().weight.detach()
    rows = torch.stack([table[ids[n % len(ids)]] for n in range(count)]).float().cpu()
    # Sampled for all rows, so that a token's noise does not depend on how many follow it.
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    size = rows.square().mean(dim=1, keepdim=True).sqrt()
    again = torch.arange(count)[:, None] >= len(ids)
    return rows + noise * size * NOISE * again


@dataclass(frozen=True)
class TokenRows:
    """The embedding rows that a twin trains; empty if its run has no new tokens."""

    words: tuple[str, ...]
    rows: dict[str, nn.Parameter]
    """Part -> (words, width), float32."""
    rate: float = 0.0
    """Peak learning rate of the rows."""

    @classmethod
    def of(
        cls, tokens: NewTokens | None, encoders: Mapping[str, nn.Module], rate: float
    ) -> "TokenRows":
        """Replace the rows in a twin's encoders by trainable copies."""
        if tokens is None:
            return cls((), {})
        rows: dict[str, nn.Parameter] = {}
        for part in TOKENIZERS:
            table = extended_embedding(encoders[part])
            assert table is not None
            table.rows = rows[part] = nn.Parameter(table.rows.detach().clone())
        return cls(tokens.words, rows, rate)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters: the rows of both encoders."""
        return list(self.rows.values())

    def groups(self) -> list[dict[str, Any]]:
        """Return the rows as a parameter group, without weight decay; empty without rows.

        A word's vector should not decay to zero.
        """
        if not self.rows:
            return []
        return [{"name": GROUP, "params": self.parameters, "lr": self.rate, "weight_decay": 0.0}]

    def now(self) -> NewTokens | None:
        """Return the tokens as trained so far; None if there are none."""
        if not self.rows:
            return None
        rows = {part: row.detach().to("cpu", copy=True) for part, row in self.rows.items()}
        return NewTokens(self.words, rows)

    def load(self, folder: Path) -> None:
        """Load the rows from a checkpoint folder, bit for bit.

        Raises:
            StudioError: the file is missing or damaged, or holds rows of another shape.
        """
        if not self.rows:
            return
        kept = read_embeddings(folder / EMBEDDINGS, self.words)
        for part, row in self.rows.items():
            if row.shape != kept.rows[part].shape:
                raise StudioError(
                    f"{folder / EMBEDDINGS}: expected new tokens of shape {tuple(row.shape)}, as "
                    f"this model's {part} has them; got {tuple(kept.rows[part].shape)}. "
                    "Resume with the model that the run was started with."
                )
            row.data.copy_(kept.rows[part])
