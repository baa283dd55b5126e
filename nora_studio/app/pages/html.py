"""Small HTML elements that several tabs show."""

from collections.abc import Sequence

from nora_studio.adapters.methods import table as methods
from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.line_chart import Colour, Stroke

METHOD_NAMES = methods.METHOD_NAMES | {"base": "Base"}


COLOURS: dict[str, Colour] = {"nora": "nora", "lora": "lora", "base": "base"}
"""The theme's colours of the compared methods, in display order."""
STROKES: dict[str, Stroke] = {"lora": "dashed"}
"""Lines that are not solid, so that twins differ in more than their colours."""


def colour_of(method: str) -> Colour:
    """Return the theme's colour variable for a method."""
    return COLOURS.get(method, "ink")


def dot(method: str) -> str:
    """Show a method's colour as a dot."""
    colour = f"background:var(--{colour_of(method)})"
    return f'<span class="dot" style="{colour}" aria-hidden="true"></span>'


def table(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> str:
    """Build a table whose first column names the row; a wide one scrolls within its own box.

    Args:
        heads: Each column's name, and its meaning as a tooltip.
    """
    head = "".join(
        f'<th scope="col">{_tip(escaped(name), meaning)}</th>' for name, meaning in heads
    )
    lines = []
    for first, *values in rows:
        cells = "".join(f"<td>{escaped(value)}</td>" for value in values)
        lines.append(f'<tr><th scope="row">{escaped(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide" tabindex="0"><table class="plain"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _tip(text: str, meaning: str) -> str:
    return f'<span title="{escaped(meaning)}">{text}</span>' if meaning else text
