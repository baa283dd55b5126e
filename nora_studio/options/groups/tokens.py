"""The trainer's options of new tokens: words that the text encoders learn for the subject."""

from dataclasses import dataclass

from nora_studio.errors import StudioError
from nora_studio.options.groups.checks import check_above_zero, check_option

MOST_TOKENS = 8
"""A prompt has room for 75 tokens in all."""


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """Pivotal tuning: [V] becomes new tokens whose vectors are learned beside the adapter."""

    new_tokens: int = 0
    """How many new tokens [V] becomes in both text encoders, 1 to 8, named after --trigger or the
    run; their vectors are learned beside the adapter, whether the encoders are adapted or not. 0:
    none, [V] becomes a rare word."""
    token_rate: float | None = None
    """Peak learning rate of the new tokens' vectors. None: recommended for the model."""
    token_init: str | None = None
    """What the new tokens' vectors start from: those of these words, in order and over again, with
    a little noise from the second round on. None: the word after [V] in `prompt`; a rare word where
    there is none."""


def check_token_options(options: TokenOptions) -> None:
    """Refuse values out of range, and options that nothing would read.

    Raises:
        StudioError: one is such.
    """
    count = options.new_tokens
    check_option(0 <= count <= MOST_TOKENS, "new_tokens", f"0 to {MOST_TOKENS}", count)
    check_above_zero(options, ("token_rate",))
    if count == 0:
        for name in ("token_rate", "token_init"):
            if getattr(options, name) is not None:
                raise StudioError(
                    f"--{name.replace('_', '-')}: a setting of new tokens, of which there are "
                    "none. Set --new-tokens, 1 for example."
                )
    check_option(
        options.token_init is None or bool(options.token_init.strip()),
        "token_init",
        "a word to start from",
        options.token_init,
    )
