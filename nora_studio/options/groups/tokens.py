"""Options of new tokens, whose embedding vectors are trained."""

from dataclasses import dataclass

from nora_studio.options.groups.checks import check_above_zero, check_option, without_effect

MOST_TOKENS = 8
"""Maximum number of new tokens; a prompt can have 75 tokens in all."""


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """Pivotal tuning: new tokens for [V], trained with the adapter."""

    new_tokens: int = 0
    """Number of new tokens that replace [V], 1 to 8, named after --trigger or the run. Their
    vectors in both text encoders are trained, whether the encoders are adapted or not. 0: none, a
    rare word replaces [V]."""
    token_rate: float | None = None
    """Peak learning rate of the new tokens' vectors. None: recommended for the model."""
    token_init: str | None = None
    """Words whose vectors the new tokens start from, in order; repeated words get a little noise.
    None: the word after [V] in `prompt`, or a rare word if there is none."""


def check_token_options(options: TokenOptions) -> None:
    """Refuse values out of range, and options without effect.

    Raises:
        StudioError: an option is refused.
    """
    count = options.new_tokens
    check_option(0 <= count <= MOST_TOKENS, "new_tokens", f"0 to {MOST_TOKENS}", count)
    check_above_zero(options, ("token_rate",))
    if count == 0:
        for name in ("token_rate", "token_init"):
            if getattr(options, name) is not None:
                raise without_effect(name, "--new-tokens", "1")
    check_option(
        options.token_init is None or bool(options.token_init.strip()),
        "token_init",
        "a word to start from",
        options.token_init,
    )
