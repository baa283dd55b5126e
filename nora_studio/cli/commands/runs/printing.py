"""Tables and number formats that the `runs` commands share."""

import datetime
import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def new_console() -> Console:
    """Make a console that does not wrap lines unless it prints to a terminal."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def new_table() -> Table:
    """Make a table in the common style."""
    return Table(box=SIMPLE_HEAD, pad_edge=False)


def print_facts(console: Console, facts: dict[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, facts), default=0) + 2
    for name, value in facts.items():
        console.print(f"[dim]{name:<{width}}[/dim]{escape(value)}")


def format_loss(value: float | None) -> str:
    """Format a loss; "" if there is none."""
    return "" if value is None else f"{value:.4f}"


def format_time(seconds: float) -> str:
    """Format seconds since the epoch as a local date and time."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
