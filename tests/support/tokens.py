"""New tokens of a usual size, and adapters that have them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.embeddings import write_embeddings
from nora_studio.adapters.files.identify import EMBEDDINGS
from nora_studio.adapters.new_tokens import (
    TOKENIZERS,
    NewTokens,
)
from nora_studio.sdxl.models import load_sdxl
from support.tiny import tiny_adapter


def adapter_with(folder: Path, base: Path, tokens: NewTokens, method: str = "nora") -> Path:
    """A tiny adapter that has new tokens."""
    folder = tiny_adapter(folder, load_sdxl(str(base)), method)
    card = replace(open_adapter(folder).card, tokens=list(tokens.words), trigger=tokens.trigger)
    write_embeddings(folder / EMBEDDINGS, tokens, card)
    (folder / "card.json").write_text(json.dumps(asdict(card)))
    return folder


WIDTH = 32


def drawn_tokens(*words: str, seed: int = 3) -> NewTokens:
    """Tokens with vectors of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    rows = {part: torch.randn(len(words), WIDTH, generator=generator) for part in TOKENIZERS}
    return NewTokens(words, rows)
