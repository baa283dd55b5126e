"""The scores of final adapters as HTML: differences, intervals and verdicts."""

from typing import Any

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.fidelity_view import TITLES
from nora_studio.app.pages.html import METHOD_NAMES, table
from nora_studio.scoring.statistics import NO_DIFFERENCE, coverage, format_signed

JUDGES = {"CLIP": "clip", "DINO": "dino"}
"""Judges, and the keys that name them in the result."""


def scores_view(kept: dict[str, Any] | None) -> str:
    """Show the verdicts in words, then the means and the paired differences.

    Args:
        kept: What the score command wrote; None if it has not run.
    """
    if kept is None:
        return ""
    names = [name for name in kept["scores"] if name in TITLES]
    labels = list(kept["scores"][names[0]]) if names else []
    means = [
        [_method_name(label), *(f"{kept['scores'][name][label]['mean']:.3f}" for name in names)]
        for label in labels
    ]
    found = [one for one in kept["differences"] if one["score"] in TITLES]
    # Differences to the base are expected; state them only if there are no others.
    stated = [one for one in found if "base" not in _pair(one)] or found
    words = "".join(f"<li>{_sentence(one)}</li>" for one in stated)
    rows = [
        [
            f"{_method_name(one['first'])} − {_method_name(one['second'])}",
            TITLES[one["score"]][0],
            format_signed(one["mean"]),
            f"{format_signed(one['low'])} to {format_signed(one['high'])}",
            str(one["verdict"]),
        ]
        for one in found
    ]
    heads = [("Pair", ""), ("Score", ""), ("Difference", "Mean over all images")]
    heads += [("95% interval", "Ends of the difference's interval"), ("Verdict", "")]
    pairs = (
        f"<details><summary>Every pair, with intervals</summary>{table(heads, rows)}</details>"
        if rows
        else ""
    )
    settings = kept.get("drawing", {})
    count, seeds = len(settings.get("prompts", ())), len(settings.get("seeds", (0,)))
    judges = [f"{kind} {kept[key]}" for kind, key in JUDGES.items() if kept.get(key)]
    judged = f" Judged by {escaped(' and '.join(judges))}." if judges else ""
    return (
        '<section class="card verdicts"><h3>The final adapters at full strength</h3>'
        f'<ul class="plain">{words}</ul>{table([("", ""), *(TITLES[n] for n in names)], means)}'
        f'{pairs}<p class="note">{count} prompts; every pair of images started from the same '
        "noise."
        f"{judged} {coverage(count, seeds)}</p></section>"
    )


def _pair(one: dict[str, Any]) -> tuple[str, str]:
    return one["first"], one["second"]


def _sentence(one: dict[str, Any]) -> str:
    first, second = map(_method_name, _pair(one))
    title, meaning = TITLES[one["score"]]
    between = f"{format_signed(one['low'])} to {format_signed(one['high'])}"
    if one["verdict"].startswith("too few"):
        text = f"{first} and {second} cannot be distinguished yet: {one['verdict']}."
    elif one["low"] <= 0 <= one["high"]:
        text = f"{NO_DIFFERENCE} between {first} and {second} ({between})."
    else:
        ahead, behind = (first, second) if one["mean"] > 0 else (second, first)
        text = f"{ahead} is ahead of {behind} by {abs(one['mean']):.3f} ({between})."
    return f'<b title="{escaped(meaning)}">{title}</b>: {escaped(text)}'


def _method_name(label: str) -> str:
    return METHOD_NAMES.get(label, label)
