"""`nora-studio runs show`: the state, curves and settings of one run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.cli.commands.runs.curves import sparkline
from nora_studio.cli.commands.runs.printing import format_time, new_console, print_facts
from nora_studio.runs.history import find_run, read_settings, summarize


@dataclass(frozen=True)
class Options:
    """Show one run: state, curves, checkpoints, samples and settings."""

    run: tyro.conf.Positional[str]
    """Name of the run in the folder of runs, or a path."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print the run."""
    run = find_run(options.run, options.output_dir)
    settings = read_settings(run)
    summary, console = summarize(run), new_console()
    facts = {
        "run": str(run.folder),
        **({} if summary.damage is None else {"damaged": summary.damage}),
        "method": summary.method,
        "state": summary.state + (f": {summary.error}" if summary.error else ""),
        "steps": f"{summary.step} of {summary.steps}",
        "last report": format_time(summary.time),
        "checkpoints": ", ".join(str(step) for step in run.checkpoints()) or "none",
        "adapter": str(run.adapter) if run.adapter.is_dir() else "not yet",
        "samples": f"{len(list((run.folder / 'samples').glob('*.png')))} images",
    }
    print_facts(console, facts)
    for name, points in summary.curves.items():
        values = [value for _, value in points]
        line = sparkline(points)
        console.print(f"[dim]{name:<14}[/dim]{line}  {values[0]:.4f} to {values[-1]:.4f}")
    console.print()
    print_facts(console, {name: str(value) for name, value in settings.items()})
    return 0
