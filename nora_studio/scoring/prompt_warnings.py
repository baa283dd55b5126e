"""Warnings about words of a prompt that are not read, and about other programs' syntax."""

from collections.abc import Iterable, Sequence

from diffusers import StableDiffusionXLPipeline

from nora_studio.adapters.new_tokens import join_tokens, temporary_tokens
from nora_studio.photos.prompts import other_syntax, replace_token
from nora_studio.scoring.scores import Scorer
from nora_studio.sdxl.cache import unread_words
from nora_studio.sdxl.columns import ComparisonColumn, GenerationSettings

SHOWN_LETTERS = 60

Named = Iterable[tuple[str, str]]
"""Pairs of a name for messages and a prompt, with "[V]"."""


def name_prompts(prompts: Iterable[str]) -> list[tuple[str, str]]:
    """Name prompts by their first words."""
    return [(f"the prompt {_shorten(prompt)!r}", prompt) for prompt in prompts]


def _shorten(prompt: str) -> str:
    return prompt if len(prompt) <= SHOWN_LETTERS else f"{prompt[:SHOWN_LETTERS].rstrip()}..."


def prompt_warnings(
    pipe: StableDiffusionXLPipeline, prompts: Named, triggers: Sequence[str | None] = (None,)
) -> list[str]:
    """Return warnings about the end of a prompt that is not read, and about unknown syntax.

    Args:
        pipe: The pipeline whose tokenizers are used, with any new tokens on it.
        triggers: Words for "[V]"; of several, the one that leaves the most unread counts.
    """
    lost = {prompt: _find_unread_words(pipe, prompt, triggers) for _, prompt in prompts}
    return _format_warnings(prompts, lost)


def generation_warnings(
    pipe: StableDiffusionXLPipeline,
    columns: Sequence[ComparisonColumn],
    settings: GenerationSettings,
) -> list[str]:
    """Return `prompt_warnings` for all columns of a comparison.

    Args:
        pipe: The base, without adapters.

    Raises:
        StudioError: the new tokens of an adapter cannot be read.
    """
    prompts = name_prompts(settings.prompts)
    if settings.negative:
        prompts.append(("the negative prompt", settings.negative))
    lost = dict.fromkeys((prompt for _, prompt in prompts), "")
    for column in columns:
        words = [use for use in column.adapters if use.card.tokens]
        distinct = {use.path: use.adapter.new_tokens() for use in words}
        with temporary_tokens(pipe, join_tokens(list(distinct.values()))):
            for prompt in lost:
                lost[prompt] = max(
                    lost[prompt], _find_unread_words(pipe, prompt, [column.trigger]), key=len
                )
    return _format_warnings(prompts, lost)


def judge_warnings(scorer: Scorer, prompts: Iterable[str]) -> list[str]:
    """Return warnings about the end of a prompt that the judge does not read."""
    lines = []
    for name, prompt in name_prompts(prompts):
        lost = scorer.unread_words(replace_token(prompt, None))
        if lost:
            lines.append(
                f"warning: {name} is too long for the judge, CLIP {scorer.name}; its score does "
                f"not take {lost!r} into account. Shorten it."
            )
    return lines


def _find_unread_words(
    pipe: StableDiffusionXLPipeline, prompt: str, triggers: Sequence[str | None]
) -> str:
    return max((unread_words(pipe, replace_token(prompt, one)) for one in triggers), key=len)


def _format_warnings(prompts: Named, lost: dict[str, str]) -> list[str]:
    lines = []
    for name, prompt in prompts:
        if lost[prompt]:
            lines.append(f"warning: {name} is too long; {lost[prompt]!r} is not read. Shorten it.")
        found = other_syntax(prompt)
        if found:
            adapters = " Choose adapters with their own option." if "<" in "".join(found) else ""
            lines.append(
                f"warning: {name}: {', '.join(found)} is the syntax of other programs, and is read "
                f"as plain text here. Write only the words.{adapters}"
            )
    return lines
