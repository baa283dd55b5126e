"""One training as HTML: its progress, samples and log."""

import time
from collections.abc import Mapping
from typing import Any

from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.pages.html import COLOURS, METHOD_NAMES, dot
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.trainings import Training, why_failed
from nora_studio.app.server.workspace import Workspace
from nora_studio.runs.sample_files import samples_of

Logs = Mapping[str, list[dict[str, Any]]]
"""Method -> its run's log, read once."""
MAX_STEPS = 12
LOG_LINES = 200
LAST_LINES = 6
"""Lines of the log that are shown below a failure."""
STATES = {
    "waiting": ("Waiting", "", "It starts when the trainings before it have ended."),
    "running": ("Training", "good", ""),
    "finished": ("Finished", "good", "Verified: the saved adapter reproduces the trained model."),
    "stopped": ("Stopped", "", "Everything is saved. Resume continues exactly where it stopped."),
    "failed": ("Failed", "bad", ""),
    "interrupted": (
        "Interrupted",
        "bad",
        "Its process was killed. Resume continues from what is saved.",
    ),
    "cancelled": ("Cancelled", "", "It was stopped before it began."),
}
"""Each state's label, colour and meaning."""


def can_resume(training: Training, state: str) -> bool:
    """Return whether the training can be resumed; settings that failed at once would fail again."""
    if state == "failed":
        return any(run.checkpoints() for run in training.runs.values())
    return state in ("stopped", "interrupted") and training.first is not None


def progress_view(training: Training, state: str, jobs: Jobs, logs: Logs) -> str:
    """Show the progress bar, the measured numbers, and the reason for a failure."""
    word, colour, meaning = STATES[state]
    runs = training.runs.values()
    statuses = [run.read_status() for run in runs]
    steps = max((status.get("steps", 0) for status in statuses), default=0)
    step = min((status.get("step", 0) for status in statuses), default=0)
    share = step / steps if steps else 0.0
    if state == "waiting" and training.job is not None:
        ahead = jobs.count_ahead(training.job)
        meaning = f"{ahead} ahead of it in the queue. {meaning}" if ahead else meaning
    if state == "running" and not step:
        meaning = "Loading the model and preparing the photos."
    if state == "failed" and not can_resume(training, state):
        meaning = "Nothing was saved to resume from. Change its settings and start it again."
    facts = _facts(logs, statuses) if step else []
    problem = ""
    if state in ("failed", "interrupted"):
        why = as_sentence(why_failed(training, jobs))
        last = jobs.tail(training.job, LAST_LINES) if training.job is not None else []
        problem = (
            f'<p class="problem" role="alert">{escaped(why)}</p>'
            f'<pre class="log last">{escaped(chr(10).join(last))}</pre>'
        )
    return (
        '<section class="card progress">'
        f'<div class="progress-head"><h2>{escaped(training.name)}</h2>'
        f'<span class="chip {colour}">{word}</span><span class="note">{escaped(meaning)}</span>'
        f"<b>{step:,} of {steps:,} steps</b></div>"
        f'<div class="meter" role="progressbar" aria-valuenow="{round(100 * share)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-label="Steps done">'
        f'<div class="{state}" style="width:{100 * share:.2f}%"></div></div>'
        f'<dl class="facts">{"".join(facts)}</dl>{problem}</section>'
    )


def _facts(logs: Logs, statuses: list[dict]) -> list[str]:
    left = max((status.get("seconds_left", 0.0) for status in statuses), default=0.0)
    rows = [row for log in logs.values() for row in log[-1:]]
    pace = max((row.get("seconds_per_step", 0.0) for row in rows), default=0.0)
    memory = max((row.get("memory_gib", 0.0) for row in rows), default=0.0)
    running = any(status.get("state") == "running" for status in statuses)
    facts = []
    if running and left:
        ends = time.strftime("%H:%M", time.localtime(time.time() + left))
        facts.append(("Time left", f"{_duration(left)}, until {ends}"))
    if pace:
        facts.append(("Time per step", f"{pace:.2f} s"))
    if memory:
        facts.append(("Memory", f"{memory:.1f} GiB"))
    for method, log in logs.items():
        losses = [row["loss"] for row in log if "loss" in row]
        if losses:
            facts.append((f"{dot(method)} {_method_name(method)}, loss", f"{losses[-1]:.4f}"))
    return [f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _method_name(method: str) -> str:
    return escaped(METHOD_NAMES.get(method, method))


def samples_view(training: Training, workspace: Workspace, state: str = "running") -> str:
    """Show the samples: a row for each step, a column for each prompt, the base on its left."""
    samples = {method: samples_of(run) for method, run in training.runs.items()}
    samples = {method: own for method, own in samples.items() if own}
    if not samples and state not in ("waiting", "running"):
        return '<div class="empty"><b>No images</b>It ended before it generated one.</div>'
    if not samples:
        return (
            '<div class="empty"><b>Waiting for the first images</b>The base model generates your '
            "prompts before the training begins.</div>"
        )
    order = sorted(samples, key=lambda method: (*(method != known for known in COLOURS), method))
    steps = sorted({step for own in samples.values() for step in own if step}, reverse=True)
    numbers = sorted({number for own in samples.values() for row in own.values() for number in row})
    prompts = _prompts(training)
    columns = []
    for number in numbers:
        prompt = prompts[number - 1] if number <= len(prompts) else ""
        rows = [
            f'<div class="wall-row"><span class="wall-step">{step:,}</span>'
            + "".join(_cell(samples[m].get(step, {}).get(number), m, workspace) for m in order)
            + "</div>"
            for step in steps[:MAX_STEPS]
        ]
        base = next((own[0][number] for own in samples.values() if number in own.get(0, {})), None)
        waiting = "" if rows else '<p class="note">The first samples come during training.</p>'
        columns.append(
            f'<figure class="wall-prompt"><figcaption>{escaped(prompt)}</figcaption>'
            f'<div class="wall-body"><div class="wall-base">{_cell(base, "base", workspace)}</div>'
            f'<div class="wall-steps">{"".join(rows)}{waiting}</div></div></figure>'
        )
    return f'<section class="wall">{"".join(columns)}</section>'


def _prompts(training: Training) -> list[str]:
    settings = training.settings
    return list(settings.get("sample_prompts") or [settings.get("prompt", "")])


def _cell(file, method: str, workspace: Workspace) -> str:
    name = _method_name(method)
    label = f'<span class="wall-name">{dot(method)} {name}</span>'
    if file is None:
        return f'<div class="wall-cell"><div class="picture"></div>{label}</div>'
    address = escaped(workspace.url(file))
    return (
        f'<div class="wall-cell"><a href="{address}" target="_blank" rel="noopener">'
        f'<img class="picture" src="{address}" alt="{name}: {escaped(file.stem)}" '
        f'loading="lazy" width="256" height="256"></a>{label}</div>'
    )


def log_view(training: Training, jobs: Jobs) -> str:
    """Show the end of the trainer's output."""
    lines = jobs.tail(training.job, LOG_LINES) if training.job is not None else []
    text = "\n".join(lines) or "Nothing has been printed yet."
    command = "" if training.job is None else f"$ {training.job.shown}\n\n"
    return f'<pre class="log">{escaped(command + text)}</pre>'
