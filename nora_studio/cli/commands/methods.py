"""`nora-studio methods`: print the table of methods."""

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Options:
    """List the adapter methods: what each is, what its rank counts, its paper and its code."""


def run(options: Options) -> int:
    """Print the table."""
    from nora_studio.adapters.methods.table import METHODS

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("method", "what it is, and what its rank counts", "arXiv", "code"):
        table.add_column(title)
    for name, method in METHODS.items():
        meaning = f"{method.summary}\n[dim]rank: {method.rank}[/]"
        table.add_row(f"[bold]{name}[/]", meaning, method.paper, method.origin)
    Console(highlight=False).print(table)
    return 0
