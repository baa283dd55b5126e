"""A blind test as HTML: one pair at a time; once all are judged, which side was which."""

from collections.abc import Sequence

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.html import COLOURS
from nora_studio.app.server.blind_storage import pair_images
from nora_studio.app.server.blind_test import BlindTest, Verdict, verdict_of
from nora_studio.app.server.image_jobs import ImageJob
from nora_studio.app.server.workspace import Workspace
from nora_studio.scoring.statistics import UNITS_FOR_A_VERDICT

PHOTOS_SHOWN = 5
CHOSEN = {"left": 0, "right": 1}


def blind_view(test: BlindTest, image_job: ImageJob, workspace: Workspace) -> str:
    """Show the pair to judge next, or the result once all pairs are judged."""
    return _result(test, workspace) if test.is_over else _pair_view(test, image_job, workspace)


def _pair_view(test: BlindTest, image_job: ImageJob, workspace: Workspace) -> str:
    number, total = len(test.answers), len(test.trials)
    images = pair_images(workspace, test, number)
    prompt = escaped(test.trials[number].prompt.replace("[V]", "(the subject)"))
    frames = "".join(
        f'<figure class="blind-side"><img src="{escaped(workspace.url(file))}" '
        f'alt="{side} image" decoding="async"><figcaption>{side}</figcaption></figure>'
        for side, file in zip(("Left", "Right"), images, strict=True)
    )
    pairs = sum(test.decoy not in trial.labels for trial in test.trials)
    few = ""
    if pairs < UNITS_FOR_A_VERDICT:
        few = (
            f'<p class="note">{pairs} pairs are too few for a verdict, which needs '
            f"{UNITS_FOR_A_VERDICT} or more prompts or seeds.</p>"
        )
    return (
        '<div class="sheet-head"><h3>Which is better?</h3>'
        f"<span>Pair {number + 1} of {total}</span></div>"
        f'<div class="meter" role="progressbar" aria-label="Pairs judged" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{number}"><div style="width:'
        f'{100 * number / total:.1f}%"></div></div>'
        f'{few}<p class="blind-prompt">{prompt}</p>'
        f"{_photos(image_job.request.references, workspace)}"
        f'<div class="blind-pair">{frames}</div>'
    )


def _photos(references: Sequence[str], workspace: Workspace) -> str:
    files = [workspace.folder / name for name in references[:PHOTOS_SHOWN]]
    images = "".join(
        f'<img src="{escaped(workspace.url(file))}" alt="A photo of the subject">'
        for file in files
        if file.is_file()
    )
    return f'<div class="blind-photos"><span>The subject</span>{images}</div>' if images else ""


def _result(test: BlindTest, workspace: Workspace) -> str:
    verdict = verdict_of(test)
    caution = f'<p class="problem">{escaped(verdict.caution)}</p>' if verdict.caution else ""
    trials = "".join(_revealed_pair(test, number, workspace) for number in range(len(test.trials)))
    checks = ""
    if verdict.decoys and not verdict.missed:
        text = f"All {verdict.decoys} decoys found: the base was never preferred to an adapter."
        checks = f'<p class="note">{text}</p>'
    return (
        f'<div class="sheet-head"><h3>{escaped(verdict.sentence)}</h3></div>'
        f'{_bars(verdict)}{checks}{caution}<p class="note">{escaped(verdict.coverage)}</p>'
        f'<h3 class="blind-reveal">Which was which</h3><div class="blind-list">{trials}</div>'
    )


def _bars(verdict: Verdict) -> str:
    counts = {verdict.first: verdict.first_wins, verdict.second: verdict.second_wins}
    counts["No difference"] = verdict.ties
    total = max(1, sum(counts.values()))
    rows = "".join(
        f'<dt>{_dot(label)}{escaped(label)}</dt><dd><i style="width:{100 * count / total:.1f}%">'
        f"</i><b>{count}</b></dd>"
        for label, count in counts.items()
    )
    return f'<dl class="blind-bars">{rows}</dl>'


def _dot(label: str) -> str:
    word = label.lower()
    kind = next((kind for kind in COLOURS if word.startswith(kind)), None)
    return f'<i class="dot {kind}"></i> ' if kind else ""


def _revealed_pair(test: BlindTest, number: int, workspace: Workspace) -> str:
    trial, answer = test.trials[number], test.answers[number]
    chosen = CHOSEN.get(answer)
    frames = "".join(
        f'<figure class="{"chosen" if side == chosen else ""}"><img src="'
        f'{escaped(workspace.url(file))}" alt="{escaped(label)}" loading="lazy"><figcaption>'
        f"{_dot(label)}{escaped(label)}{' · chosen' if side == chosen else ''}</figcaption>"
        "</figure>"
        for side, (label, file) in enumerate(
            zip((trial.left, trial.right), pair_images(workspace, test, number), strict=True)
        )
    )
    tie = " · no difference seen" if chosen is None else ""
    return f"<section><p>{escaped(trial.prompt)}{tie}</p><div>{frames}</div></section>"


def results_view(tests: Sequence[BlindTest]) -> str:
    """List the verdicts of an image job's finished tests, one per line."""
    lines = []
    for test in tests:
        if test.is_over:
            verdict = verdict_of(test)
            score = f"{verdict.first} {verdict.first_wins}, {verdict.second} {verdict.second_wins}"
            lines.append(f"<li>{escaped(score)}. {escaped(verdict.sentence)}</li>")
    return f'<h4>Blind tests</h4><ul class="blind-past">{"".join(lines)}</ul>' if lines else ""
