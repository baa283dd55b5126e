"""A fidelity result as HTML: a plot with selectable points, a point's images, and advice."""

from collections.abc import Callable, Sequence

from nora_studio.app.pages.axes import Axis, format_number
from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.html import METHOD_NAMES, colour_of, dot, table
from nora_studio.scoring.fidelity import PROMPT_SCORE, Fidelity, FidelityPoint
from nora_studio.scoring.fidelity_text import advice, fidelity_table, judges_of, point_name
from nora_studio.scoring.statistics import coverage

TITLES = {
    "CLIP-T": ("Prompt", "CLIP-T: how well the image matches its prompt."),
    "CLIP-I": ("Subject", "CLIP-I: how similar the image is to the real photos, judged by CLIP."),
    "DINO": (
        "Subject, by DINO",
        "DINO: how similar the image is to the real photos in its details.",
    ),
    "Nearest photo": ("Nearest photo", "Similarity to the nearest photo: 1 is a copy."),
}
"""Each score's label on the page, and its meaning."""


def plot_view(result: Fidelity, chosen: int | None) -> str:
    """Plot every point as a button: the subject score upwards, the prompt score to the right."""
    name = result.subject_score
    all_points = [*result.points, result.base]
    photo_mean = sum(result.real[name]) / len(result.real[name])
    x_axis = Axis.spanning([point.scores[PROMPT_SCORE].mean for point in all_points])
    y_axis = Axis.spanning([photo_mean, *(point.scores[name].mean for point in all_points)])

    def position(point: FidelityPoint) -> tuple[float, float]:
        scores = point.scores[PROMPT_SCORE].mean, point.scores[name].mean
        return x_axis.percent(scores[0]), y_axis.percent(scores[1])

    best = {found.point for found in result.recommended.values()}
    spots = [
        _point_mark(result, index, position(point), index in best, index == chosen)
        for index, point in enumerate(result.points)
    ]
    left, bottom = position(result.base)
    base = f'<i class="end" style="left:{left:.2f}%;bottom:{bottom:.2f}%"></i>'
    base += f'<b class="end" style="left:{left:.2f}%;bottom:{bottom:.2f}%">base</b>'
    line = f'style="bottom:{y_axis.percent(photo_mean):.2f}%"'
    photos = f'<hr class="real" {line}><b class="real" {line}>real photos among themselves</b>'
    grid = "".join(
        f'<span class="y" style="bottom:{y_axis.percent(tick):.2f}%">{format_number(tick)}</span>'
        f'<hr style="bottom:{y_axis.percent(tick):.2f}%">'
        for tick in y_axis.ticks
    ) + "".join(
        f'<span class="x" style="left:{x_axis.percent(tick):.2f}%">{format_number(tick)}</span>'
        for tick in x_axis.ticks
    )
    return (
        '<figure class="chart fidelity card"><figcaption>Closer to the subject '
        '<span aria-hidden="true">↑</span></figcaption>'
        f'<div class="plot" role="group" aria-label="Every point measured">{grid}{photos}'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f"{_paths(result, position)}</svg>{base}{''.join(spots)}</div>"
        '<div class="along">Closer to the prompt <span aria-hidden="true">→</span></div>'
        f"{_key(result)}</figure>"
    )


def _point_mark(
    result: Fidelity, index: int, position: tuple[float, float], is_best: bool, is_chosen: bool
) -> str:
    point = result.points[index]
    subject, prompt = (point.scores[n].mean for n in (result.subject_score, PROMPT_SCORE))
    kinds = [k for k, on in (("final", point.is_final), ("best", is_best)) if on]
    label = f"{point.run}, {point_name(point)}: subject {subject:.3f}, prompt {prompt:.3f}"
    side = "after" if position[0] < 50 else "before"
    mark = "<em>recommended</em>" if is_best else ""
    return (
        f'<button type="button" class="spot {" ".join(kinds)}" data-act="point" '
        f'data-point="{index}" aria-pressed="{str(is_chosen).lower()}" '
        f'aria-label="{escaped(label)}{", recommended" if is_best else ""}" '
        f'style="left:{position[0]:.2f}%;bottom:{position[1]:.2f}%;'
        f'--c:var(--{colour_of(point.method)});--r:{_dot_rem(point.strength):.2f}rem"><i></i>'
        f'<span class="read {side}">{escaped(point.run)}<br>step {point.step:,} × '
        f"{point.strength:g}{mark}</span></button>"
    )


def _dot_rem(strength: float) -> float:
    return 0.45 + 0.4 * min(strength, 1.5)


def _paths(result: Fidelity, position: Callable[[FidelityPoint], tuple[float, float]]) -> str:
    """Return an SVG path for each checkpoint, from the base through its strengths."""
    paths = []
    for run, step in dict.fromkeys((point.run, point.step) for point in result.points):
        own = [point for point in result.points if (point.run, point.step) == (run, step)]
        own.sort(key=lambda point: point.strength)
        way = [position(point) for point in [result.base, *own]]
        path_data = "L".join(f"{10 * x:.1f} {1000 - 10 * y:.1f}" for x, y in way)
        kind, colour = "final" if own[0].is_final else "earlier", colour_of(own[0].method)
        paths.append(f'<path class="{kind}" d="M{path_data}" style="stroke:var(--{colour})"/>')
    return "".join(paths)


def _key(result: Fidelity) -> str:
    runs = {point.run: point.method for point in result.points}
    rows = [
        f"<li>{dot(method)} {escaped(run)} ({escaped(METHOD_NAMES.get(method, method))})</li>"
        for run, method in runs.items()
    ]
    rows.append("<li>larger: stronger</li><li>filled: the final adapter</li>")
    rows.append('<li><i class="ring"></i>recommended</li>')
    return f'<ul class="key">{"".join(rows)}</ul>'


def panel_view(result: Fidelity, chosen: int | None, address: Callable[[str], str | None]) -> str:
    """Show a point's images and scores, with a button to use it under Compare.

    Args:
        address: Returns an image's URL by its name in the result; None if it is gone.
    """
    if chosen is None:
        return '<div class="empty"><b>No points yet</b>Press a point to see its images.</div>'
    point = result.points[chosen]
    chips = [_chip(name, score.mean, score.low, score.high) for name, score in point.scores.items()]
    chips.append(_chip("Nearest photo", point.nearest))
    prompts = [prompt for prompt in result.prompts for _ in result.seeds]
    figures = []
    for prompt, own, base in zip(prompts, point.pictures, result.base.pictures, strict=False):
        cells = "".join(
            f'<img class="picture" src="{escaped(address(name) or "")}" width="256" '
            f'height="256" loading="lazy" alt="{who}: {escaped(prompt)}">'
            for name, who in ((base, "Base"), (own, escaped(point.run)))
        )
        figures.append(f"<figure>{cells}<figcaption>{escaped(prompt)}</figcaption></figure>")
    last = " · final adapter" if point.is_final else ""
    return (
        f'<section class="card chosen-point"><h3>{dot(point.method)} {escaped(point.run)}</h3>'
        f'<p class="note">Step {point.step:,}{last} · strength {point.strength:g}</p>'
        f'<p class="chips">{"".join(chips)}</p><button type="button" class="plain-button" '
        f'data-act="use" data-point="{chosen}">Use this strength in Compare</button>'
        f'<div class="pairs"><p class="note">On the left the base, on the right strength '
        f"{point.strength:g}.</p>{''.join(figures)}</div></section>"
    )


def _chip(name: str, mean: float, low: float | None = None, high: float | None = None) -> str:
    title, meaning = TITLES[name]
    ends = f"; 95% interval {low:.3f} to {high:.3f}" if None not in (low, high) else ""
    return f'<span class="chip" title="{escaped(meaning + ends)}">{title} {mean:.3f}</span>'


def advice_view(result: Fidelity, runs: Sequence[str]) -> str:
    """Show the recommendation for each run in words, and a table of all points."""
    cards = []
    methods = {point.run: point.method for point in result.points}
    for run, method in ((run, methods[run]) for run in runs if run in methods):
        found = result.recommended.get(run)
        button = ""
        if found is not None:
            strength = result.points[found.point].strength
            button = (
                '<button type="button" class="plain-button" data-act="use" '
                f'data-point="{found.point}">Use strength {strength:g} in Compare</button>'
            )
        cards.append(
            f'<section class="card advice"><h3>{dot(method)} {escaped(run)}</h3>'
            f"<p>{escaped(advice(result, run))}</p>{button}</section>"
        )
    head, *rows = fidelity_table(result)
    heads = [TITLES.get(name, (name, "")) for name in head]
    count = f"{result.photo_count} photos, {len(result.prompts)} prompts"
    judged = escaped(f"Judged by {judges_of(result)}")
    return (
        f'<div class="advices">{"".join(cards)}</div><p class="note">{judged}.</p>'
        '<details class="card"><summary>All points in '
        f'numbers</summary>{table(heads, rows)}<p class="note">{count}. In '
        f"brackets the mean's interval. {coverage(len(result.prompts), len(result.seeds))}</p>"
        "</details>"
    )


def first_choice(result: Fidelity, runs: Sequence[str]) -> int | None:
    """Return the point to show first: the first run's recommended one, or the latest."""
    for run in runs:
        if run in result.recommended:
            return result.recommended[run].point
    return len(result.points) - 1 if result.points else None
