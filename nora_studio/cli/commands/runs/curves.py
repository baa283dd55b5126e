"""Loss curves of runs, in the terminal and as a chart."""

from pathlib import Path

from nora_studio.runs.history import CurvePoints, RunSummary

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 48


def plot_curves(summaries: list[RunSummary], file: Path) -> None:
    """Plot two runs' curves over the steps: one colour per run, one line style per curve."""
    # Imported here: no other command needs it, and it takes a second.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for summary, colour in zip(summaries, ("#3d6b99", "#c2553a"), strict=False):
        for name, points in summary.curves.items():
            steps, values = zip(*points, strict=True)
            style = {"loss": ":", "fixed_loss": "--", "held_out_loss": "-"}[name]
            label = f"{summary.run.folder.name}, {name.replace('_', ' ')}"
            axes.plot(steps, values, style, color=colour, label=label)
    axes.set(xlabel="step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(file)


def sparkline(points: CurvePoints) -> str:
    """Return a curve as one line of bars; the lowest bar is its lowest value."""
    values = [value for _, value in points]
    chosen = [values[i * len(values) // _WIDTH] for i in range(_WIDTH)]
    chosen = values if len(values) <= _WIDTH else chosen
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(_BARS[int((v - low) / span * (len(_BARS) - 1))] for v in chosen)
