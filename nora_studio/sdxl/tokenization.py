"""Tokenize a prompt with SDXL's two tokenizers, for display."""

from typing import Any

from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.photos.prompts import replace_token
from nora_studio.sdxl.models import check_trigger, choose_trigger, load_tokenizers


def tokenize_prompt(prompt: Any, model: Any = None, rare_word: Any = None) -> dict[str, Any]:
    """Tokenize a prompt with a base's tokenizers.

    Args:
        prompt: The prompt, with or without "[V]".
        model: "embedded", a diffusers directory or a Hub name. None: embedded.
        rare_word: Word for "[V]"; "auto": the one that the trainer would choose; None: none.

    Returns:
        Data for JSON: the rare word, the text that is read, and each tokenizer's tokens with the
        number that it can read.

    Raises:
        StudioError: the prompt is not text, the model does not exist, or the rare word is not a
            single token.
    """
    if not isinstance(prompt, str):
        raise StudioError(f"prompt: expected text; got {prompt!r}.")
    tokenizers = load_tokenizers(str(model or EMBEDDED))
    if rare_word is not None:
        is_auto = rare_word == "auto"
        rare_word = (
            choose_trigger(tokenizers) if is_auto else check_trigger(tokenizers, str(rare_word))
        )
    text = replace_token(prompt, rare_word)
    encoders = [_tokens_of(name, own, text) for name, own in tokenizers._asdict().items()]
    return {"rare_word": rare_word, "text": text, "encoders": encoders}


def _tokens_of(name: str, tokenizer: Any, text: str) -> dict[str, Any]:
    pieces = tokenizer.tokenize(text)
    tokens = [
        {"text": piece.removesuffix("</w>"), "ends_word": piece.endswith("</w>"), "id": number}
        for piece, number in zip(pieces, tokenizer.convert_tokens_to_ids(pieces), strict=True)
    ]
    # The tokenizer's limit includes the tokens for start and end.
    return {"name": name, "tokens": tokens, "limit": tokenizer.model_max_length - 2}
