"""`nora-studio params`: count what an adapter would train on a model, without loading it."""

from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Options:
    """Count the parameters an adapter trains, from the model's shapes: no weights are loaded."""

    model: str = "sdxl"
    """sdxl, llama-1-7b, llama-3-8b, clip-vit-b-16, embedded, or a directory with config.json."""
    method: str = "nora"
    """Adapter method (`nora-studio methods` lists them)."""
    rank: int | None = None
    """Rank. None: the one recommended for the method."""
    outer_rank: int | None = None
    """NoRA's frozen outer rank. None: the recommended one."""
    targets: tuple[str, ...] = ()
    """Endings of layer names; for SDXL, attention or attention+feedforward. None given: usual."""
    table1: bool = False
    """Instead, print the rows of the paper's Table 1 with the paper's counts and ours."""


def run(options: Options) -> int:
    """Print the counts."""
    console = Console(highlight=False)
    console.print(_table_1() if options.table1 else _counts(options))
    return 0


def _counts(options: Options) -> Table:
    # Imported here: `--help` and a wrong flag should respond at once.
    from nora_studio.adapters.methods.spec import AdapterSpec
    from nora_studio.adapters.methods.table import method_named
    from nora_studio.options.recommended import recommended
    from nora_studio.sdxl.parameters import count

    settings = method_named(options.method).settings
    usual = recommended(options.method, options.model)
    rank = usual.rank if options.rank is None else options.rank
    outer_rank = usual.outer_rank if options.outer_rank is None else options.outer_rank
    # AdaLoRA's count at the start is the same whatever the length of the run.
    steps = 1000 if "total_steps" in settings else None
    spec = AdapterSpec(options.method, rank, outer_rank=outer_rank, total_steps=steps)
    ranks = f"{outer_rank} x {rank}" if outer_rank else f"rank {rank}"
    parts = count(options.model, spec, options.targets)
    table = _table(f"{options.method}, {ranks}, on {options.model}")
    for title in ("part", "adapted layers", "parameters", "trained", "share"):
        table.add_column(title, justify="left" if title == "part" else "right")
    for part in parts:
        table.add_row(part.part, *_numbers(part.layers, part.base, part.trained))
    if len(parts) > 1:
        sums = (sum(getattr(p, key) for p in parts) for key in ("layers", "base", "trained"))
        table.add_section()
        table.add_row("all", *_numbers(*sums))
    return table


def _numbers(layers: int, base: int, trained: int) -> tuple[str, ...]:
    return f"{layers:,}", f"{base:,}", f"{trained:,}", f"{trained / base:.4%}"


def _table_1() -> Table:
    from nora_studio.sdxl.parameters import TABLE_1, count_trained

    table = _table("NoRA (arXiv:2408.10280), Table 1")
    for title in ("model", "adapter", "layers", "paper", "ours"):
        table.add_column(title, justify="right" if title in ("paper", "ours") else "left")
    for row in TABLE_1:
        targets = ", ".join(target.removesuffix("_proj") for target in row.targets)
        table.add_row(row.model, row.label, targets, row.printed, f"{count_trained(row):,}")
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
