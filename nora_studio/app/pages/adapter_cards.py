"""The Adapters tab as HTML: cards, the chosen adapters, and the commands with their results."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.methods.table import METHOD_NAMES
from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.pages.html import COLOURS
from nora_studio.app.server.adapter_results import files_of, is_preview, result_of
from nora_studio.app.server.job import Job, State
from nora_studio.app.server.jobs import Jobs
from nora_studio.app.server.library import LibraryEntry
from nora_studio.app.server.workspace import Workspace
from nora_studio.options.part_settings import settings_of

EMPTY = (
    '<div class="empty"><b>No adapters yet</b>Train one under Train, and it appears here when it '
    "is finished. Or add a .safetensors file from elsewhere.</div>"
)
NONE_CHOSEN = '<p class="note">Choose one or more adapters on the left.</p>'
KINDS = {
    "run": "trained here",
    "seed": "seed file",
    "kohya": "file for ComfyUI",
    "diffusers": "file for diffusers",
}
SCORES = {
    "CLIP-I": "How similar its samples are to the photos; 1 is identical.",
    "CLIP-T": "How well its samples match their prompts.",
    "DINO": "How similar its samples are to the photos, judged by DINO.",
}
ACTION_LABELS = {
    "export": "Export",
    "mix": "Mix",
    "merge": "Merge",
    "push": "Publish",
    "inspect": "Inspect",
}
STATES: dict[State, tuple[str, str]] = {
    "waiting": ("Waiting", ""),
    "running": ("Running", ""),
    "finished": ("Done", "good"),
    "stopped": ("Stopped", ""),
    "failed": ("Failed", "bad"),
    "cancelled": ("Cancelled", ""),
}
MAX_STRENGTH = 2.0
PICK = """
element.addEventListener('click', (event) => {
  const pick = event.target.closest('.adapter-pick');
  if (!pick) return;
  const on = pick.getAttribute('aria-pressed') !== 'true';
  pick.setAttribute('aria-pressed', on);
  trigger('select', {act: 'choose', adapter: pick.dataset.adapter, on: on ? 'yes' : 'no'});
});
"""
"""Marks a card at once, so that it keeps the keyboard's focus, and then sends an event.

The adapter is not sent as "path": Gradio treats any object with that key as an upload."""


def method_name(method: str) -> str:
    """Return a method's name as publications write it."""
    return METHOD_NAMES.get(method) or {"mix": "Mix"}.get(method, method)


def size_words(count: int) -> str:
    """Format a number of bytes."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def library_view(
    entries: Sequence[LibraryEntry], chosen: Mapping[str, float], workspace: Workspace
) -> str:
    """Show all adapters as cards; pressing a card chooses it."""
    if not entries:
        return EMPTY
    cards = (_card(entry, entry.path in chosen, workspace) for entry in entries)
    return f'<div class="shelf">{"".join(cards)}</div>'


def _card(entry: LibraryEntry, is_chosen: bool, workspace: Workspace) -> str:
    title, path = escaped(entry.title), escaped(entry.path)
    method = entry.card.method if entry.card is not None else ""
    colour = COLOURS.get(method, "base")
    image = (
        f'<img class="picture" src="{escaped(workspace.url(entry.thumbnail))}" alt="" '
        'loading="lazy" width="256" height="256">'
        if entry.thumbnail is not None
        else f'<div class="picture blank {colour}" aria-hidden="true"><i></i></div>'
    )
    kind = KINDS.get(entry.kind, "file")
    label = escaped(method_name(method)) if method else "Unknown"
    usable = "" if entry.card is not None else " disabled"
    body = (
        _facts(entry.card)
        if entry.card is not None
        else f'<p class="problem">{escaped(entry.problem)}</p>'
    )
    return (
        f'<article class="adapter"><button class="adapter-pick" data-adapter="{path}" '
        f'aria-pressed="{"true" if is_chosen else "false"}" aria-label="Choose {title}"{usable}>'
        f'{image}<span class="adapter-tick" aria-hidden="true">✓</span></button>'
        f'<div class="adapter-words"><h3>{title}</h3>'
        f'<p class="note"><span class="dot {colour}"></span> {label}, {kind}, '
        f"{_size(entry)}</p>{body}{_scores(entry)}{_links(entry, workspace)}</div>"
        "</article>"
    )


def _size(entry: LibraryEntry) -> str:
    size = size_words(entry.bytes)
    if (
        entry.kind != "run"
        or entry.card is None
        or "outer_rank" not in settings_of(entry.card.method)
    ):
        return size
    why = "Includes the frozen outer factors, which an exported file leaves out."
    return f'<span title="{why}">{size}</span>'


def _facts(card: AdapterCard) -> str:
    base = "miniature, built in" if card.model == "embedded" else Path(card.model).name
    if card.model.count("/") == 1 and card.model[0] not in "./~":
        base = card.model
    rows = [
        ("Base", "The model it was trained on, and works with", base or "unknown"),
        (
            "Trigger word",
            "The word for your subject; you can still write [V] in prompts",
            card.trigger,
        ),
        ("Trained", "", f"{card.steps:,} steps, {card.resolution} px" if card.steps else ""),
        ("Parameters", "How many numbers were trained", f"{card.parameters:,}"),
    ]
    lines = "".join(
        f"<dt{f' title={chr(34)}{tip}{chr(34)}' if tip else ''}>{name}</dt>"
        f"<dd>{escaped(value)}</dd>"
        for name, tip, value in rows
        if value
    )
    return f'<dl class="adapter-facts">{lines}</dl>'


def _scores(entry: LibraryEntry) -> str:
    if not entry.scores:
        return ""
    chips = "".join(
        f'<span class="chip" title="{SCORES[name]}">{name} {value:.3f}</span>'
        for name, value in entry.scores.items()
    )
    judge = f'<span class="note">by CLIP {escaped(entry.judge)}</span>'
    return f'<p class="adapter-scores">{chips}{judge}</p>'


def _links(entry: LibraryEntry, workspace: Workspace) -> str:
    if entry.kind == "run":
        return ""
    name = escaped(Path(entry.path).name)
    link = _download(workspace.folder / entry.path, workspace, "Download")
    return (
        f'<p class="adapter-links">{link}<button class="plain-button" data-act="remove" '
        f'data-adapter="{escaped(entry.path)}" aria-label="Remove {name}">Remove</button></p>'
    )


def _download(file: Path, workspace: Workspace, words: str) -> str:
    address = escaped(f"{workspace.url(file)}&download")
    return f'<a class="plain-button" href="{address}" download>{escaped(words)}</a>'


def chosen_view(
    entries: Mapping[str, LibraryEntry], chosen: Mapping[str, float], with_strengths: bool
) -> str:
    """Show the chosen adapters, each with a strength slider where the action uses strengths."""
    rows = [
        _chosen_card(entries[path], strength if with_strengths else None)
        for path, strength in chosen.items()
    ]
    if not rows:
        return NONE_CHOSEN
    return f'<ul class="chosen">{"".join(rows)}</ul>'


def _chosen_card(entry: LibraryEntry, strength: float | None) -> str:
    title, path = escaped(entry.title), escaped(entry.path)
    method = entry.card.method if entry.card is not None else ""
    colour = COLOURS.get(method, "base")
    slider = (
        ""
        if strength is None
        else '<label class="chosen-strength">Strength <input type="range" min="0" '
        f'max="{MAX_STRENGTH:g}" step="0.05" value="{strength:g}" '
        f'data-act="strength" data-adapter="{path}" '
        'oninput="this.nextElementSibling.value = Number(this.value).toFixed(2)">'
        f"<output>{strength:.2f}</output></label>"
    )
    return (
        f'<li><span class="chosen-name"><span class="dot {colour}"></span> {title}</span>'
        f'<button class="plain-button" data-act="drop" data-adapter="{path}" '
        f'aria-label="Deselect {title}">×</button>{slider}</li>'
    )


def jobs_view(shown: Sequence[Job], jobs: Jobs, workspace: Workspace) -> str:
    """Show the commands, newest first, each with its state and its results."""
    if not shown:
        return '<p class="note">Your results appear here for download.</p>'
    rows = "".join(_job_row(job, jobs, workspace) for job in shown)
    return f'<ul class="made">{rows}</ul>'


def _job_row(job: Job, jobs: Jobs, workspace: Workspace) -> str:
    state = jobs.state(job)
    word, colour = STATES[state]
    action = "Page of" if is_preview(job) else ACTION_LABELS[job.kind]
    text = jobs.output(job) if state != "waiting" else ""
    when = time.strftime("%H:%M", time.localtime(job.created))
    links = _result_links(job, workspace) if state == "finished" else ""
    problem = ""
    if state == "failed":
        lines = [line for line in text.splitlines() if line.strip()]
        why = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        why = why.removeprefix("error: ") or (
            lines[-1] if lines else "its process ended without an error message."
        )
        problem = f'<p class="problem" role="alert">{escaped(as_sentence(why))}</p>'
    is_open = " open" if job.kind == "inspect" and state == "finished" else ""
    stop = (
        f'<button class="plain-button" data-act="stop" data-job="{job.id}">Stop</button>'
        if state in ("waiting", "running")
        else ""
    )
    return (
        f'<li><div class="made-head"><b>{action} {escaped(job.title)}</b>'
        f'<span class="chip {colour}">{word}</span><span class="note">{when}</span>{stop}{links}'
        f"</div>{problem}<details{is_open}><summary>The command and its output</summary>"
        f'<pre class="command">{escaped(job.shown)}</pre>'
        f'<pre class="said">{escaped(text.strip() or "Nothing yet.")}</pre></details></li>'
    )


def _result_links(job: Job, workspace: Workspace) -> str:
    path = result_of(workspace, job)
    if path is None:
        return ""
    if path.is_file():
        label = f"Download, {size_words(path.stat().st_size)}"
        tokens = path.with_suffix(".embedding.safetensors")
        more = _download(tokens, workspace, "Its new tokens") if tokens.is_file() else ""
        return _download(path, workspace, label) + more
    files = files_of(path)
    size = sum(file.stat().st_size for file in files)
    links = "".join(
        f"<li>{_download(file, workspace, str(file.relative_to(path)))}</li>" for file in files
    )
    return (
        f'<details class="made-files"><summary>{len(files)} files, {size_words(size)}</summary>'
        f"<ul>{links}</ul></details>"
    )
