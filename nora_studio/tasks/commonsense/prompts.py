"""The prompts of LLM-Adapters' commonsense protocol, to the blank.

Source: LLM-Adapters (arXiv 2304.01933), `finetune.py` and `commonsense_evaluate.py`. Both print one
template inside an indented triple-quoted string, so sixteen blanks stand before every line but the
first. The two differ: in training the empty lines between the sections carry those blanks too, and
more blanks follow the first line. A model reads other tokens for them, so both are kept.
"""

from collections.abc import Mapping

INDENT = " " * 16
RESPONSE = "### Response:"
"""What stands before the answer; everything after its first occurrence is the model's."""

_TASK = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_REQUEST = ". Write a response that appropriately completes the request."


def training_prompt(row: Mapping[str, str], with_answer: bool = True) -> str:
    """Return a row as the model is fine-tuned on it; without its answer, the text before that.

    Args:
        row: instruction, input (empty: none) and output.
    """
    asked = bool(row["input"])
    head = _head(asked) + (" " if asked else "  ")
    answer = row["output"] if with_answer else ""
    return head + "\n\n" + _sections(row, f"\n{INDENT}\n") + answer


def evaluation_prompt(row: Mapping[str, str]) -> str:
    """Return a row as the model is asked it.

    Args:
        row: instruction and input (empty: none).
    """
    asked = bool(row["input"])
    head = _head(asked) + ("" if asked else " ")
    return head + "\n\n" + _sections(row, "\n\n")


def response_in(text: str) -> str:
    """Return a decoded text's response: all after the first "### Response:", stripped.

    As `commonsense_evaluate.py` does, up to where the model writes that heading itself.
    """
    return text.split(RESPONSE)[1].strip()


def _head(asked: bool) -> str:
    return _TASK + (_WITH_INPUT if asked else "") + _REQUEST


def _sections(row: Mapping[str, str], between: str) -> str:
    """Instruction, input if there is one, and the response's heading with its blanks."""
    sections = [f"### Instruction:\n{INDENT}{row['instruction']}"]
    if row["input"]:
        sections.append(f"### Input:\n{INDENT}{row['input']}")
    sections.append(f"{RESPONSE}\n{INDENT}")
    return INDENT + f"{between}{INDENT}".join(sections)
