"""A measurement as HTML: its progress, or why it failed."""

import re

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.server.job import Job
from nora_studio.app.server.jobs import Jobs
from nora_studio.runs.scripts import GENERATING

NAMES = {"fidelity": "Finding the best strength", "score": "Comparing the final adapters"}
_PROGRESS = re.compile(rf"{GENERATING}: .*?(\d+)/(\d+) \[")


def measurement_view(job: Job, jobs: Jobs) -> str:
    """Show progress while it waits or runs, or a sentence if it failed or was stopped."""
    state = jobs.state(job)
    if state in ("finished", "cancelled"):
        return ""
    title = NAMES.get(job.kind, "Measuring")
    lines = jobs.tail(job)
    if state in ("failed", "stopped"):
        ends = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        why = ends[-1] if ends else "its process ended without an error message."
        words = f"{title} failed: {why}" if state == "failed" else f"{title} was stopped."
        kind = "problem" if state == "failed" else "note"
        return f'<p class="{kind}" role="status">{escaped(words)}</p>'
    found = [match for line in lines for match in _PROGRESS.findall(line)]
    done, total = map(int, found[-1]) if found else (0, 0)
    ahead = jobs.count_ahead(job)
    status = f"{done} of {total} images" if total else "loading the models"
    if state == "waiting":
        status = f"waiting, {ahead} ahead of it" if ahead else "waiting, next in line"
    share = 100 * done / total if total else 0
    return (
        f'<section class="card measuring"><div class="progress-head"><h3>{title}</h3>'
        f"<b>{status}</b></div>"
        f'<div class="meter" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-label="{title}"><div style="width:{share:.1f}%"></div></div>'
        f'<details><summary>The command</summary><pre class="command">{escaped(job.shown)}'
        "</pre></details></section>"
    )
