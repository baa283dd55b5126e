"""`nora-studio runs show`: one run."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from nora_studio.cli.commands.runs.curves import sparkline
from nora_studio.cli.commands.runs.printing import format_time, new_console, print_facts
from nora_studio.runs.history import find_run, read_settings, standing


@dataclass(frozen=True)
class Options:
    """One run: how it stands, its settings, its curves, its checkpoints and pictures."""

    run: tyro.conf.Positional[str]
    """Name in the folder of runs, or a path."""
    output_dir: Path = Path("runs")
    """Folder of runs."""


def run(options: Options) -> int:
    """Print one run."""
    run = find_run(options.run, options.output_dir)
    settings = read_settings(run)
    now, console = standing(run), new_console()
    facts = {
        "run": str(run.folder),
        **({} if now.damage is None else {"damaged": now.damage}),
        "method": now.method,
        "state": now.state + (f": {now.error}" if now.error else ""),
        "steps": f"{now.step} of {now.steps}",
        "last told": format_time(now.time),
        "checkpoints": ", ".join(str(step) for step in run.checkpoints()) or "none",
        "adapter": str(run.adapter) if run.adapter.is_dir() else "not yet",
        "samples": f"{len(list((run.folder / 'samples').glob('*.png')))} pictures",
    }
    print_facts(console, facts)
    for name, points in now.curves.items():
        values = [value for _, value in points]
        line = sparkline(points)
        console.print(f"[dim]{name:<14}[/dim]{line}  {values[0]:.4f} to {values[-1]:.4f}")
    console.print()
    print_facts(console, {name: str(value) for name, value in settings.items()})
    return 0
