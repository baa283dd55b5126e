"""Generate assets/options.md, the page of all options of the trainer, from their dataclasses."""

import ast
import dataclasses
import inspect
import itertools
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin, get_type_hints

from nora_studio.options.config import DreamboothOptions, PartOptions

HEAD = """# Every option of the trainer

`nora-studio train`, `accelerate launch training/dreambooth_nora.py` and `--config FILE.toml` have
the same options; in a file, `-` is `_`. This page is generated: `python -m
nora_studio.options.options_page`.
"""


def options_page() -> str:
    """Return the page as Markdown: a table for each group of options, and one for a part's."""
    groups = [kind for kind in reversed(DreamboothOptions.__mro__) if kind is not object]
    tables = [_table(kind, "") for kind in groups if own_fields(kind)]
    tables.append(_table(PartOptions, "unet."))
    return "\n".join([HEAD, *tables])


def own_fields(kind: type) -> list[dataclasses.Field]:
    """Return the fields that a dataclass declares itself, without inherited ones."""
    own = vars(kind).get("__annotations__", {})
    return [field for field in dataclasses.fields(kind) if field.name in own]


def helps(kind: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass, by the field's name."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: " ".join(str(after.value.value).split())
        for node, after in itertools.pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


def _table(kind: type, prefix: str) -> str:
    lines, hints, words = [], get_type_hints(kind), helps(kind)
    for field in own_fields(kind):
        if field.type is PartOptions or hints[field.name] is PartOptions:
            continue
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        if field.default is True:
            flag = f"--{prefix}no-{field.name.replace('_', '-')}"
        values = f"{_kind(hints[field.name])}{_default(field)}"
        lines.append(f"| `{flag}` | {values} | {words[field.name].replace('|', chr(92) + '|')} |")
    title = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    if prefix:
        title = "Options of one part: `--unet.`, `--text-encoder.` or `--text-encoder-2.`"
    return "\n".join([f"## {title}", "", "| option | values | |", "|---|---|---|", *lines, ""])


def _kind(hint: object) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_kind(part) for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(hint))
    if get_origin(hint) is tuple:
        return "words"
    words = {str: "text", int: "whole number", float: "number", bool: "switch", Path: "path"}
    return words.get(hint, str(hint))


def _default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return ", **needed**"
    if field.default is None or field.default == () or isinstance(field.default, bool):
        return ""
    return f"; default `{field.default}`"


if __name__ == "__main__":
    print(options_page(), end="")
