"""A plot of a fidelity result: subject upwards, prompt to the right."""

from pathlib import Path

from nora_studio.scoring.fidelity import PROMPT_SCORE, Fidelity

COLOURS = ("#a4502f", "#3d6b99", "#47743f", "#7a5c99")


def plot_fidelity(result: Fidelity, file: Path) -> None:
    """Plot every point, one colour per run, with its front as a line and the best point ringed."""
    # Imported here: nothing else needs it, and it takes a second.
    from matplotlib.figure import Figure

    def position(number: int) -> tuple[float, float]:
        scores = result.points[number].scores
        return scores[PROMPT_SCORE].mean, scores[result.subject_score].mean

    figure = Figure(figsize=(8, 5.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    runs = list(dict.fromkeys(point.run for point in result.points))
    for order, run in enumerate(runs):
        colour = COLOURS[order % len(COLOURS)]
        own = [n for n, point in enumerate(result.points) if point.run == run]
        axes.plot(*zip(*(position(n) for n in own), strict=True), "o", color=colour, label=run)
        axes.plot(
            *zip(*(position(n) for n in result.front if n in own), strict=True),
            color=colour,
            alpha=0.4,
        )
        for number in own:
            point = result.points[number]
            text = f"{point.step} × {point.strength:g}"
            axes.annotate(text, position(number), (5, 4), textcoords="offset points", fontsize=7)
        if run in result.recommended:
            ring = position(result.recommended[run].point)
            axes.plot(*ring, "o", markersize=15, fillstyle="none", color=colour)
    base = result.base.scores
    end = base[PROMPT_SCORE].mean, base[result.subject_score].mean
    axes.plot(*end, "s", color="0.5", label="base")
    axes.set(
        xlabel=f"fidelity to the prompt ({PROMPT_SCORE})",
        ylabel=f"fidelity to the subject ({result.subject_score})",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(file)
