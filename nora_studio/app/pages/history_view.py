"""Runs as HTML: the list, one run in full, and the differences of two."""

import datetime
from collections.abc import Mapping, Sequence

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.html import METHOD_NAMES, colour_of, dot, table
from nora_studio.app.pages.line_chart import Series, line_chart
from nora_studio.app.server.run_history import RunRow, settings_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.runs.history import RunSummary, Settings, common_steps, differing_settings
from nora_studio.runs.sample_files import samples_of

STATES = {
    "running": ("Training", "good"),
    "finished": ("Finished", "good"),
    "stopped": ("Stopped", ""),
    "failed": ("Failed", "bad"),
    "interrupted": ("Interrupted", "bad"),
    "damaged": ("Damaged", "bad"),
    "new": ("Beginning", ""),
}
CURVE_NAMES = {
    "loss": "Training loss",
    "fixed_loss": "Loss at fixed noise",
    "held_out_loss": "Loss on held-out photos",
}
SHORT_NAMES = {"loss": "loss", "held_out_loss": "held out", "fixed_loss": "fixed noise"}
"""A run's row shows the first two that it has."""
EMPTY = (
    '<div class="empty"><b>No runs yet</b>Whatever you train is kept here, with its settings, '
    "curves and images, until you delete it.</div>"
)


def list_view(runs: Sequence[RunRow], picked: Sequence[str], workspace: Workspace) -> str:
    """Show a row for each run; pressing one selects it."""
    if not runs:
        return EMPTY
    rows = "".join(_row(past, past.name in picked, workspace) for past in runs)
    return f'<div class="runs" role="group" aria-label="Runs">{rows}</div>'


def _row(row: RunRow, is_picked: bool, workspace: Workspace) -> str:
    summary, name = row.summary, escaped(row.name)
    image = '<span class="picture"></span>'
    if row.thumbnail is not None:
        address = escaped(workspace.url(row.thumbnail))
        image = (
            f'<img class="picture" src="{address}" alt="" loading="lazy" width="64" height="64">'
        )
    losses = [
        f'<span title="{CURVE_NAMES[curve]}">{words} <b>{summary.last[curve]:.4f}</b></span>'
        for curve, words in SHORT_NAMES.items()
        if curve in summary.last
    ][:2]
    word, colour = STATES.get(summary.state, (summary.state, ""))
    when = datetime.datetime.fromtimestamp(summary.time).strftime("%-d %B %Y, %H:%M")
    return (
        f'<button type="button" class="run-row" data-act="pick" data-run="{name}" '
        f'aria-pressed="{str(is_picked).lower()}">{image}'
        f'<span class="run-name"><b>{dot(summary.method)} {name}</b><small>{escaped(when)}</small>'
        f'</span><span class="chip {colour}">{escaped(word)}</span>'
        f'<span class="run-steps">{summary.step:,} of {summary.steps:,} steps</span>'
        f'<span class="run-losses">{"".join(losses)}</span></button>'
    )


def curves_view(runs: Sequence[RunSummary], log: bool, smoothing: float) -> str:
    """Show the training losses of one or two runs in one chart, the measured ones in another."""
    if not runs:
        return ""
    held_out = all("held_out_loss" in now.curves for now in runs)
    measured = "held_out_loss" if held_out else "fixed_loss"
    trained = _chart(runs, "loss", log, smoothing)
    return f'<div class="charts">{trained}{_chart(runs, measured, log, 0.0)}</div>'


def _chart(runs: Sequence[RunSummary], name: str, log: bool, smoothing: float) -> str:
    alike = len({colour_of(now.method) for now in runs}) < len(runs)
    series = []
    for order, now in enumerate(runs):
        colour = "soft" if alike and order else colour_of(now.method)
        line = "dashed" if order else "solid"
        series.append(Series(now.run.folder.name, now.curves.get(name, []), colour, line))
    empty = "Not measured. A training with --hold-out or --evaluate-every measures it."
    title = CURVE_NAMES[name]
    chart = line_chart(series, title=title, log=log, smoothing=smoothing, empty=empty)
    return f'<section class="card">{chart}</section>'


def detail_view(
    runs: Sequence[RunSummary], workspace: Workspace, meanings: Mapping[str, str]
) -> str:
    """Show one run's settings and samples; for two runs, the differences and both samples.

    Args:
        meanings: The meaning of each setting by its name.
    """
    if not runs:
        return (
            '<div class="empty"><b>Select one or two runs</b>One shows its settings, curves and '
            "images; two show what differs.</div>"
        )
    settings = [settings_of(now.run) for now in runs]
    details = _difference(runs, settings, meanings) if len(runs) == 2 else ""
    if len(runs) == 1:
        details = _settings(runs[0], settings[0], meanings)
    samples = "".join(_samples(now, workspace) for now in runs)
    return f'<div class="past">{details}<div class="past-samples">{samples}</div></div>'


def _settings(summary: RunSummary, settings: Settings, meanings: Mapping[str, str]) -> str:
    problems = [summary.error, summary.damage and f"Damaged: {summary.damage}"]
    problem = "".join(
        f'<p class="problem" role="status">{escaped(text)}</p>' for text in problems if text
    )
    rows = [
        f'<tr><th scope="row">{_setting(name, meanings)}</th><td>{_value(value)}</td></tr>'
        for name, value in settings.items()
    ]
    return (
        f'<section class="card"><h3>Settings of {escaped(summary.run.folder.name)}</h3>{problem}'
        f'<div class="wide tall" tabindex="0"><table class="plain settings"><tbody>{"".join(rows)}'
        "</tbody></table></div></section>"
    )


def _difference(
    runs: Sequence[RunSummary], settings: Sequence[Settings], meanings: Mapping[str, str]
) -> str:
    first, second = (escaped(now.run.folder.name) for now in runs)
    differing = dict(differing_settings(settings[0], settings[1]))
    if runs[0].method != runs[1].method:
        differing = {"method": tuple(now.method for now in runs)} | differing
    rows = [
        f'<tr><th scope="row">{_setting(name, meanings)}</th>'
        f"{''.join(f'<td>{_value(value)}</td>' for value in pair)}</tr>"
        for name, pair in differing.items()
    ]
    body = "".join(rows) or '<tr><td colspan="3">The same settings.</td></tr>'
    head = f'<th></th><th scope="col">{first}</th><th scope="col">{second}</th>'
    return (
        '<section class="card"><h3>What differs</h3><div class="wide" tabindex="0">'
        f'<table class="plain settings pairwise"><thead><tr>{head}</tr></thead><tbody>{body}'
        f"</tbody></table></div>{_last_losses(runs)}</section>"
    )


def _last_losses(runs: Sequence[RunSummary]) -> str:
    """Show both runs' losses at the last step that both have."""
    rows = []
    for name, words in CURVE_NAMES.items():
        curves = [now.curves.get(name, []) for now in runs]
        points = common_steps(curves[0], curves[1])
        if points:
            step, first, second = points[-1]
            change = f"{second - first:+.4f}".replace("-", "−")
            rows.append([words, f"{first:.4f}", f"{second:.4f}", change, f"{step:,}"])
    heads = [("", ""), *((now.run.folder.name, "") for now in runs)]
    heads += [("Difference", "The second minus the first"), ("At step", "")]
    return (
        table(heads, rows) if rows else '<p class="note">No step at which both were measured.</p>'
    )


def _setting(name: str, meanings: Mapping[str, str]) -> str:
    meaning = meanings.get(name) or meanings.get(name.rpartition(".")[2], "")
    words = escaped(name.replace("_", " ").replace(".", ": "))
    return f'<span title="{escaped(meaning)}">{words}</span>' if meaning else words


def _value(value: object) -> str:
    if value is None:
        return '<span class="note">as recommended</span>'
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "<br>".join(escaped(str(item)) for item in value) or "none"
    return escaped(str(value))


def _samples(summary: RunSummary, workspace: Workspace) -> str:
    """Show the base's and the latest samples of a run, prompt by prompt."""
    samples = samples_of(summary.run)
    name, last = escaped(summary.run.folder.name), max(samples, default=0)
    head = f"<h3>{dot(summary.method)} {name}</h3>"
    if not last:
        return f'<section class="card">{head}<p class="note">It has no samples.</p></section>'
    base = samples.get(0, {})
    method = escaped(METHOD_NAMES.get(summary.method, summary.method))
    prompts = settings_of(summary.run).get("sample_prompts") or []
    figures = []
    for number, file in samples[last].items():
        prompt = prompts[number - 1] if number <= len(prompts) else ""
        cells = "".join(
            f'<img class="picture" src="{escaped(workspace.url(one))}" alt="{who}: '
            f'{escaped(prompt)}" loading="lazy" width="256" height="256">'
            if one is not None
            else '<span class="picture"></span>'
            for one, who in ((base.get(number), "Base"), (file, method))
        )
        figures.append(f"<figure>{cells}<figcaption>{escaped(prompt)}</figcaption></figure>")
    return (
        f'<section class="card">{head}<div class="pairs"><p class="note">On the left the base, on '
        f"the right step {last:,}.</p>{''.join(figures)}</div></section>"
    )


def trash_view(names: Sequence[str], undone: Sequence[str]) -> str:
    """Show the runs that were just deleted, with Undo, and everything that is in the trash.

    Args:
        undone: Names of the runs that this page deleted last.
    """
    last = "".join(
        f'<p class="undo" role="status">{escaped(name)} was deleted.'
        f'<button type="button" class="plain-button" data-act="restore" '
        f'data-run="{escaped(name)}">Undo</button></p>'
        for name in undone
        if name in names
    )
    if not names:
        return ""
    rows = "".join(
        f'<li><span>{escaped(name)}</span><button type="button" class="plain-button" '
        f'data-act="restore" data-run="{escaped(name)}">Restore</button></li>'
        for name in names
    )
    count = f"{len(names)} deleted run{'s' * (len(names) > 1)}"
    return (
        f'{last}<details class="card trash"><summary>{count}</summary><ul>{rows}</ul>'
        "<details><summary>Delete for good</summary><p>This deletes their settings, images and "
        'adapters. <button type="button" class="plain-button bad" data-act="empty">Yes, delete '
        f"{count} for good</button></p></details></details>"
    )
