"""An image job as HTML: rows and columns of images, with scores and the progress."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.server.image_jobs import ImageIndex, ImageJob
from nora_studio.app.server.workspace import Workspace
from nora_studio.scoring.statistics import coverage, format_signed

SCORE_NAMES = {
    "CLIP-T": ("prompt", "CLIP-T: how well an image matches its prompt, 0 to 1"),
    "CLIP-I": ("subject", "CLIP-I: how close an image is to the photos of the subject, 0 to 1"),
    "DINO": ("detail", "DINO: how close it is to the photos in shape and detail, 0 to 1"),
}
STATES = {
    "waiting": "Waiting",
    "drawing": "Generating",
    "scoring": "Scoring",
    "finished": "Finished",
    "cancelled": "Stopped",
    "failed": "Failed",
    "interrupted": "Interrupted",
}
EMPTY = (
    '<div class="empty"><b>No images yet</b>Choose adapters, write a prompt with [V] where the '
    "subject goes, and press Generate. Every column of a row starts from the same noise, so what "
    "differs is the adapter.</div>"
)


@dataclass(frozen=True)
class _Block:
    """One table of images."""

    title: str
    heads: Sequence[tuple[str, str]]
    """(label, kind) of each column."""
    rows: Sequence[tuple[str, Sequence[ImageIndex]]]


def image_job_view(job: ImageJob | None, workspace: Workspace) -> str:
    """Show a whole image job; it has the same height with and without its images."""
    if job is None:
        return EMPTY
    blocks = "".join(_block(block, job, workspace) for block in _blocks(job))
    return f"{_head(job)}{_findings(job)}{_judge_note(job)}{blocks}"


def _judge_note(job: ImageJob) -> str:
    """Show the judge of the scores, or why there are none."""
    if job.unscored is not None:
        reason = job.unscored.removeprefix("not scored: ")  # Earlier versions stored it as well.
        return f'<p class="note unscored">The images are not scored: {escaped(reason)}</p>'
    if not job.scores:
        return ""
    return f'<p class="note">Scores by CLIP {escaped(job.judge or "of an unknown name")}.</p>'


def _head(job: ImageJob) -> str:
    total, done = job.request.count, len(job.files)
    request = job.request
    facts = [
        f"{request.steps} steps",
        f"guidance {request.guidance:g}",
        request.model or "embedded",
    ]
    why = ""
    if job.error:
        why = f'<p class="problem">{escaped(as_sentence(job.error))}</p>'
    elif job.waits_for:
        why = f'<p class="note">{escaped(job.waits_for)}</p>'
    elif job.state == "interrupted":
        why = (
            '<p class="note">The studio was stopped before the images were finished. Press Resume '
            "to generate the rest.</p>"
        )
    warnings = "".join(f'<p class="note unread">{escaped(line)}</p>' for line in job.warnings)
    meter = (
        f'<div class="meter" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{done}"><div class="{job.state}" '
        f'style="width:{100 * done / max(1, total):.1f}%"></div></div>'
    )
    return (
        f'<div class="sheet-head"><h3>{STATES[job.state]}</h3>'
        f"<span>{done} of {total} images</span>"
        f'<span class="sheet-facts">{escaped(", ".join(filter(None, facts)))}</span></div>'
        f"{meter}{why}{warnings}"
    )


def _findings(job: ImageJob) -> str:
    """Show the differences between columns, one line for each pair of columns."""
    pairs: dict[tuple[str, str], list[str]] = {}
    few = ""
    for one in job.differences:
        name, meaning = SCORE_NAMES.get(one["score"], (one["score"], ""))
        span = f"{format_signed(one['low'])} to {format_signed(one['high'])}"
        tooltip = f"{meaning}. The mean difference and its 95% interval"
        is_few = str(one["verdict"]).startswith("too few")
        few = f"{one['verdict']}." if is_few else few
        word = "" if is_few else f" <em>{escaped(one['verdict'])}</em>"
        pairs.setdefault((one["first"], one["second"]), []).append(
            f'<span class="chip" title="{escaped(tooltip)}">{escaped(name)} '
            f"<b>{format_signed(one['mean'])}</b> ({span}){word}</span>"
        )
    lines = "".join(
        f"<li><span>{escaped(first)} − {escaped(second)}</span>{''.join(chips)}</li>"
        for (first, second), chips in pairs.items()
    )
    covered = coverage(len(job.request.prompts), len(job.request.seeds))
    words = f"{few[:1].upper()}{few[1:]} {covered}".strip()
    note = f'<p class="note">{escaped(words)}</p>'
    return f'<ul class="findings">{lines}</ul>{note}' if lines else ""


def _blocks(job: ImageJob) -> Iterator[_Block]:
    request, layout = job.request, job.view.get("layout")
    kinds = [*job.view.get("kinds", ()), *["mix"] * len(request.columns)]
    heads = [(column.label, kinds[n]) for n, column in enumerate(request.columns)]
    if layout == "strengths":
        across, rows = job.view["across"], job.view["rows"]
        width = len(across)
        yield _Block("", heads[:1], [("", [(0, 0, 0)])])
        places = [[(1 + r * width + c, 0, 0) for c in range(width)] for r in range(len(rows))]
        columns = [(name, "plain") for name in across]
        yield _Block(request.prompts[0], columns, list(zip(rows, places, strict=True)))
    elif layout == "seeds":
        seeds = [(f"seed {seed}", "plain") for seed in request.seeds]
        for number, (label, _) in enumerate(heads):
            rows = [
                (prompt, [(number, p, s) for s in range(len(seeds))])
                for p, prompt in enumerate(request.prompts)
            ]
            yield _Block(label, seeds, rows)
    else:
        many = len(request.seeds) > 1
        rows = [
            (
                f"{prompt} · seed {seed}" if many else prompt,
                [(c, p, s) for c in range(len(heads))],
            )
            for p, prompt in enumerate(request.prompts)
            for s, seed in enumerate(request.seeds)
        ]
        yield _Block("", heads, rows)


def _block(block: _Block, job: ImageJob, workspace: Workspace) -> str:
    heads = "".join(
        f'<div class="shot-head"><i class="dot {escaped(kind)}"></i>{escaped(label)}</div>'
        for label, kind in block.heads
    )
    rows = "".join(
        (f'<h4 class="shot-row">{escaped(label)}</h4>' if label else "")
        + "".join(_image(place, job, workspace) for place in places)
        for label, places in block.rows
    )
    title = f"<h3>{escaped(block.title)}</h3>" if block.title else ""
    single = " lonely" if len(block.heads) == 1 else ""
    return (
        f'{title}<div class="shots{single}" style="--across:{len(block.heads)}">{heads}{rows}</div>'
    )


def _image(place: ImageIndex, job: ImageJob, workspace: Workspace) -> str:
    request = job.request
    column, prompt, seed = place
    label, words, number = (
        request.columns[column].label,
        request.prompts[prompt],
        request.seeds[seed],
    )
    file = job.file(workspace, place)
    if file is None:
        state = "to-come" if job.is_under_way else "missing"
        box = '<div class="shot-box"></div><figcaption></figcaption>'
        return f'<figure class="shot {state}">{box}</figure>'
    url = escaped(workspace.url(file))
    save = f"{label} {words} seed {number}.png"
    group = f"{prompt}-{seed}"
    return (
        f'<figure class="shot" data-src="{url}" data-label="{escaped(label)}" data-group="{group}" '
        f'data-prompt="{escaped(words)}" data-seed="{number}" data-save="{escaped(save)}">'
        f'<button type="button" class="shot-box" aria-label="Look closer at {escaped(label)}: '
        f'{escaped(words)}, seed {number}"><img src="{url}" alt="{escaped(label)}: '
        f'{escaped(words)}" loading="lazy" decoding="async"></button>'
        f"<figcaption>{_chips(job, label, prompt * len(request.seeds) + seed)}"
        f'<a href="{url}" download="{escaped(save)}" title="Download the image with its settings">'
        "Save</a></figcaption></figure>"
    )


def _chips(job: ImageJob, label: str, number: int) -> str:
    chips = []
    for score, columns in (job.scores or {}).items():
        values: list[Any] = columns.get(label, [])
        if number < len(values):
            name, meaning = SCORE_NAMES.get(score, (score, ""))
            chips.append(f'<span title="{escaped(meaning)}">{name} {values[number]:.2f}</span>')
    return f'<span class="marks">{"".join(chips)}</span>'
