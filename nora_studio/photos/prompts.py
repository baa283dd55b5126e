"""Prompts with "[V]" for the subject, which is replaced by an adapter's trigger word."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.photos.texts import read_text

PLACEHOLDER = "[V]"
PLACES = (
    "in the snow",
    "on the beach",
    "in the forest",
    "on a city street",
    "on the moon",
    "under water",
)
"""Default places for a subject, different from where it was photographed."""
_PLACEHOLDER = re.compile(r"\[v\]", re.IGNORECASE)
_OTHER_SYNTAX = re.compile(
    r"<(?:lora|lyco|hypernet):[^<>]*>"  # an adapter
    r"|\([^()]*:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*\)"  # (red:1.4)
    r"|\({2,}[^()]*\){2,}"  # ((red))
    r"|\[(?!v\])[^\[\]]*\]"  # [red], [cat:dog:0.5], and not [V]
    r"|\{[^{}]*\}"  # {red}, {red|blue}
    r"|\b(?-i:BREAK)\b",
    re.IGNORECASE,
)
"""Prompt syntax of other programs for weights and schedules, which diffusers reads as text."""
_LEFT_OUT = re.compile(r"\[v\](?:['’]s\b)?", re.IGNORECASE)


def replace_token(prompt: str, trigger: str | None) -> str:
    """Replace "[V]" (or "[v]") by a trigger word; without one, remove it.

    "a photo of a [V] mug" becomes "a photo of a zqp mug" for an adapter, and "a photo of a mug" for
    the base and for CLIP, which do not know the word. Articles are left as they are.
    """
    if trigger:
        return _PLACEHOLDER.sub(lambda _: trigger, prompt)
    bare = re.sub(r"\s+", " ", _LEFT_OUT.sub(" ", prompt)).strip()
    return re.sub(r"\s+([.,;:!?])", r"\1", bare)


def other_syntax(prompt: str) -> list[str]:
    """Return the parts of a prompt in other programs' syntax: "(red:1.4)", "[red]", "BREAK"."""
    return list(dict.fromkeys(_OTHER_SYNTAX.findall(prompt)))


def in_places(prompt: str, count: int = len(PLACES)) -> list[str]:
    """Return a prompt in `count` of the default places."""
    return [f"{prompt or 'a photo of [V]'} {place}" for place in PLACES[:count]]


def read_prompts(entries: Sequence[str]) -> list[str]:
    """Return prompts that are given as such, or read them from a single file.

    A text file has one prompt per line; empty lines and those that start with "#" are left out. A
    JSON file has a list of prompts, or is a subject's `subject.json`, with one prompt per scene.

    Raises:
        StudioError: there are no prompts, one is given twice, or the file cannot be read.
    """
    prompts = [entry.strip() for entry in entries]
    if len(prompts) == 1 and names_prompt_file(prompts[0]):
        prompts = _read_file(Path(prompts[0]).expanduser())
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise StudioError(
            '--prompts: expected at least one prompt, such as "a photo of a [V] mug"; got none.'
        )
    repeated = next((prompt for prompt in prompts if prompts.count(prompt) > 1), None)
    if repeated is not None:
        raise StudioError(
            f"--prompts: expected different prompts; got {repeated!r} more than once. Remove the "
            "repetition."
        )
    return prompts


def names_prompt_file(entry: str) -> bool:
    """Return whether `read_prompts` would take a single entry for the name of a file."""
    return entry.strip().lower().endswith((".txt", ".json"))


def _read_file(file: Path) -> list[str]:
    try:
        text = read_text(file)
        if file.suffix.lower() == ".txt":
            lines = [line.strip() for line in text.splitlines()]
            return [line for line in lines if not line.startswith("#")]
        content = json.loads(text)
        if isinstance(content, dict):
            content = [scene["prompt"] for scene in content["scenes"]]
        if not isinstance(content, list) or not all(isinstance(item, str) for item in content):
            raise ValueError("expected a list of prompts, or scenes with a prompt each")
    except StudioError as error:
        raise StudioError(f"--prompts: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StudioError(f"--prompts: {file} cannot be read: {error}.") from error
    return [prompt.strip() for prompt in content]
