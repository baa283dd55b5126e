"""The prompts of LLM-Adapters' commonsense protocol, with identical whitespace.

Source: LLM-Adapters (arXiv 2304.01933), `finetune.py` and `commonsense_evaluate.py`. In both the
template is an indented triple-quoted string, so every line but the first begins with sixteen
spaces. They differ: in training, the empty lines between sections have these spaces too, and more
spaces follow the first line. Both forms are kept, as they give different tokens.
"""

from collections.abc import Mapping

INDENT = " " * 16
RESPONSE = "### Response:"
"""Heading before the answer; everything after its first occurrence is the model's response."""

_TASK = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_REQUEST = ". Write a response that appropriately completes the request."


def training_prompt(row: Mapping[str, str], with_answer: bool = True) -> str:
    """Return the fine-tuning text of a row, with or without its answer at the end.

    Args:
        row: instruction, input (empty for none) and output.
    """
    asked = bool(row["input"])
    head = _head(asked) + (" " if asked else "  ")
    answer = row["output"] if with_answer else ""
    return head + "\n\n" + _sections(row, f"\n{INDENT}\n") + answer


def evaluation_prompt(row: Mapping[str, str]) -> str:
    """Return the prompt of a row for evaluation.

    Args:
        row: instruction and input (empty for none).
    """
    asked = bool(row["input"])
    head = _head(asked) + ("" if asked else " ")
    return head + "\n\n" + _sections(row, "\n\n")


def response_in(text: str) -> str:
    """Return a decoded text's response: what follows the first "### Response:", stripped.

    It ends where the model writes that heading itself, as in `commonsense_evaluate.py`.
    """
    return text.split(RESPONSE)[1].strip()


def _head(asked: bool) -> str:
    return _TASK + (_WITH_INPUT if asked else "") + _REQUEST


def _sections(row: Mapping[str, str], between: str) -> str:
    """Return the instruction, the input if there is one, and the heading of the response."""
    sections = [f"### Instruction:\n{INDENT}{row['instruction']}"]
    if row["input"]:
        sections.append(f"### Input:\n{INDENT}{row['input']}")
    sections.append(f"{RESPONSE}\n{INDENT}")
    return INDENT + f"{between}{INDENT}".join(sections)
