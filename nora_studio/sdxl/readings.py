"""How both of SDXL's tokenizers read a prompt: what the model sees, and what never."""

from typing import Any

from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.photos.prompts import replace_token
from nora_studio.sdxl.models import check_trigger, choose_trigger, load_tokenizers


def read_as_tokens(prompt: Any, model: Any = None, rare_word: Any = None) -> dict[str, Any]:
    """Read a prompt by a base's tokenizers.

    Args:
        prompt: With "[V]" for the subject, or without.
        model: "embedded", a diffusers directory or a Hub name. None: embedded.
        rare_word: For "[V]"; "auto": the one that the trainer would choose; None: left out.

    Returns:
        For JSON: the rare word, the text that is read, and each tokenizer's pieces with how many
        of them it can read.

    Raises:
        StudioError: no prompt, no such model, or a rare word that is no single token.
    """
    if not isinstance(prompt, str):
        raise StudioError(f"prompt: expected some words; got {prompt!r}.")
    tokenizers = load_tokenizers(str(model or EMBEDDED))
    if rare_word is not None:
        is_open = rare_word == "auto"
        rare_word = (
            choose_trigger(tokenizers) if is_open else check_trigger(tokenizers, str(rare_word))
        )
    text = replace_token(prompt, rare_word)
    encoders = [_reading(name, own, text) for name, own in tokenizers._asdict().items()]
    return {"rare_word": rare_word, "text": text, "encoders": encoders}


def _reading(name: str, tokenizer: Any, text: str) -> dict[str, Any]:
    pieces = tokenizer.tokenize(text)
    tokens = [
        {"text": piece.removesuffix("</w>"), "ends_word": piece.endswith("</w>"), "id": number}
        for piece, number in zip(pieces, tokenizer.convert_tokens_to_ids(pieces), strict=True)
    ]
    # Its limit counts the marks of a prompt's start and end.
    return {"name": name, "tokens": tokens, "limit": tokenizer.model_max_length - 2}
