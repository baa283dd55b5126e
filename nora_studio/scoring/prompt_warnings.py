"""Say which words of a prompt nobody reads, and which signs are read as plain text."""

from collections.abc import Iterable, Sequence

from diffusers import StableDiffusionXLPipeline

from nora_studio.adapters.new_tokens import join_tokens, temporary_tokens
from nora_studio.photos.prompts import other_syntax, replace_token
from nora_studio.scoring.scores import Scorer
from nora_studio.sdxl.cache import words_unread
from nora_studio.sdxl.entrants import Drawing, Entrant

SHOWN_LETTERS = 60

Named = Iterable[tuple[str, str]]
"""What a prompt is called in a message, and the prompt, "[V]" included."""


def named(prompts: Iterable[str]) -> list[tuple[str, str]]:
    """Prompts by their own first words."""
    return [(f"the prompt {_shortened(prompt)!r}", prompt) for prompt in prompts]


def _shortened(prompt: str) -> str:
    return prompt if len(prompt) <= SHOWN_LETTERS else f"{prompt[:SHOWN_LETTERS].rstrip()}..."


def prompt_warnings(
    pipe: StableDiffusionXLPipeline, prompts: Named, triggers: Sequence[str | None] = (None,)
) -> list[str]:
    """Warn of the end of a prompt that the base never reads, and of other programs' syntax.

    Args:
        pipe: Its tokenizers read; new tokens must be on it.
        triggers: What "[V]" becomes; of several, the one that leaves the most unread is told.
    """
    lost = {prompt: _lost(pipe, prompt, triggers) for _, prompt in prompts}
    return _told(prompts, lost)


def drawing_warnings(
    pipe: StableDiffusionXLPipeline, entrants: Sequence[Entrant], drawing: Drawing
) -> list[str]:
    """As `prompt_warnings`, of all that a drawing's columns read.

    Args:
        pipe: The base, bare.

    Raises:
        StudioError: the new tokens of an adapter cannot be read.
    """
    prompts = named(drawing.prompts)
    if drawing.negative:
        prompts.append(("the negative prompt", drawing.negative))
    lost = dict.fromkeys((prompt for _, prompt in prompts), "")
    for entrant in entrants:
        words = [use for use in entrant.adapters if use.card.tokens]
        distinct = {use.path: use.adapter.new_tokens() for use in words}
        with temporary_tokens(pipe, join_tokens(list(distinct.values()))):
            for prompt in lost:
                lost[prompt] = max(lost[prompt], _lost(pipe, prompt, [entrant.trigger]), key=len)
    return _told(prompts, lost)


def judge_warnings(scorer: Scorer, prompts: Iterable[str]) -> list[str]:
    """Warn of the end of a prompt that the judge does not read; its score is of the rest."""
    lines = []
    for name, prompt in named(prompts):
        lost = scorer.words_unread(replace_token(prompt, None))
        if lost:
            lines.append(
                f"warning: {name} is too long for the judge, CLIP {scorer.name}; its score leaves "
                f"out {lost!r}. Shorten it."
            )
    return lines


def _lost(pipe: StableDiffusionXLPipeline, prompt: str, triggers: Sequence[str | None]) -> str:
    return max((words_unread(pipe, replace_token(prompt, one)) for one in triggers), key=len)


def _told(prompts: Named, lost: dict[str, str]) -> list[str]:
    lines = []
    for name, prompt in prompts:
        if lost[prompt]:
            lines.append(f"warning: {name} is too long; never read: {lost[prompt]!r}. Shorten it.")
        found = other_syntax(prompt)
        if found:
            adapters = " Adapters are chosen by themselves." if "<" in "".join(found) else ""
            lines.append(
                f"warning: {name}: {', '.join(found)} is other programs' syntax; here it is read "
                f"as plain text, signs and numbers included. Write the words alone.{adapters}"
            )
    return lines
