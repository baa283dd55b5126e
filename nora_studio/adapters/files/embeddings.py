"""New tokens on disk: the textual inversion file that A1111, ComfyUI and diffusers read for SDXL.

It has two tensors, `clip_l` and `clip_g`, with one row for each token. A1111 and ComfyUI name the
tokens after the file; diffusers is given their words.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from nora_studio.adapters.files.card import AdapterCard, card_text
from nora_studio.adapters.files.identify import CARD_KEY, EMBEDDINGS
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import get_again
from nora_studio.runs.tensor_files import read_tensors, write_tensors

KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
SEED_PREFIX = "tokens."
"""Prefix of the same tensors in a seed file."""


def embedding_tensors(tokens: NewTokens) -> dict[str, Tensor]:
    """Return the tensors of an embeddings file, by its keys."""
    return {KEYS[part]: rows.detach() for part, rows in tokens.rows.items()}


def write_embeddings(file: Path, tokens: NewTokens, card: AdapterCard) -> None:
    """Write new tokens in float32, with the adapter's card in the header.

    Raises:
        StudioError: the file cannot be written.
    """
    write_tensors(file, embedding_tensors(tokens), {CARD_KEY: card_text(card)})


def diffusers_lines(file: str, words: Sequence[str]) -> list[str]:
    """Return lines of Python that add the new tokens to a diffusers pipeline `pipe`.

    The last line corrects the position at which transformers reads SDXL's pooled text: with SDXL's
    published config that is the largest id of a prompt, and so a new token.

    Args:
        file: A Python expression for the file's path.
        words: The new tokens.
    """
    lines = ["from safetensors.torch import load_file", f"rows = load_file({file})"]
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        lines.append(
            f"pipe.load_textual_inversion(rows[{key!r}], token={list(words)!r}, "
            f"text_encoder=pipe.text_encoder{number}, tokenizer=pipe.tokenizer{number})"
        )
    return [*lines, "pipe.text_encoder_2.text_model.eos_token_id = pipe.tokenizer_2.eos_token_id"]


def read_embeddings(
    file: Path,
    words: Sequence[str],
    read: Callable[[Path], dict[str, Tensor]] = read_tensors,
) -> NewTokens:
    """Read the vectors of new tokens.

    Args:
        file: As `write_embeddings` writes it.
        words: The tokens.
        read: The function that reads a file's tensors.

    Raises:
        StudioError: the file is missing or damaged, or holds other tensors.
    """
    if not file.is_file():
        raise StudioError(
            f"expected the vectors of {' '.join(words)} in {file}, which does not exist. "
            f"{_remedy(file)}"
        )
    return as_tokens(file, words, read(file))


def _remedy(file: Path) -> str:
    """Return how to replace a missing file of vectors, in a folder or next to an adapter file."""
    if file.name == EMBEDDINGS:
        return get_again(file.parent)
    return "Put it back next to the adapter that it was exported or downloaded with."


def seed_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the new tokens' rows among a seed file's tensors, by an embeddings file's keys."""
    own = {key: tensor for key, tensor in tensors.items() if key.startswith(SEED_PREFIX)}
    return {key.removeprefix(SEED_PREFIX): tensor for key, tensor in own.items()}


def as_tokens(file: Path, words: Sequence[str], tensors: Mapping[str, Tensor]) -> NewTokens:
    """Check a file's tensors and return them by part.

    Raises:
        StudioError: they are not one row for each word and encoder.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    good = shapes.keys() == set(KEYS.values()) and all(
        len(shape) == 2 and shape[0] == len(words) for shape in shapes.values()
    )
    if not good:
        raise StudioError(
            f"{file}: expected clip_l and clip_g with a row for each of {' '.join(words)}; got "
            f"{shapes}. {get_again(file)}"
        )
    return NewTokens(tuple(words), {part: tensors[key].float() for part, key in KEYS.items()})
