"""Sweeps as one page: every candidate's means over subjects, and every difference."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.scoring.statistics import Mean, mean_of
from nora_studio.scoring.tables import BY_CHANCE, difference_lines, rate_notes

SCORES = ("CLIP-I", "CLIP-T")
RECORD = ("method", "results", "trials")
"""Keys of a sweep's record."""
_Pair = tuple[str, int]
"""Subject and seed: the key of a pair."""
_Row = dict[str, dict[_Pair, float]]
"""Values by score and by subject and seed."""


def results_of(
    trials: Sequence[Mapping[str, Any]],
    flags: Sequence[str],
    rates: Sequence[Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Return each candidate with its means over subjects, the best CLIP-I first.

    Args:
        trials: Runs with `candidate`, `subject`, `seed`, `parameters` and the scores.
        flags: Each candidate's options.
        rates: Each candidate's learning rates by part.
    """
    rows = []
    for number, words in enumerate(flags):
        own = [trial for trial in trials if trial["candidate"] == number]
        means = {
            name: mean_of([t[name] for t in own], [t["subject"] for t in own]).value
            for name in SCORES
        }
        more = {"parameters": own[0]["parameters"], "rates": dict(rates[number])}
        rows.append({"candidate": number, "flags": words, **means, **more})
    return sorted(rows, key=lambda row: -row["CLIP-I"])


def page(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown page with every candidate of some sweeps, and every difference.

    Intervals are over subjects, since seeds of one subject are alike. For a single subject they are
    over its seeds, and the page says that they cover only this subject.

    Args:
        records: Sweeps by name.

    Raises:
        StudioError: a candidate was tried on other subjects or seeds than the first, or the sweeps
            were scored by different judges.
    """
    judge = _judge_of(records)
    lines = [
        "| | flags | CLIP-I | CLIP-T | parameters | learning rates |",
        "|---|---|---|---|---|---|",
    ]
    rows: dict[str, _Row] = {}
    chosen: dict[str, float] = {}
    tried: dict[str, list[float]] = {}
    for name, record in records.items():
        for result in record["results"]:
            label = f"{name} {result['candidate']}"
            rows[label] = row = _row(record, result["candidate"])
            means = [_format(_mean(row[score])) for score in SCORES]
            rates = ", ".join(f"{part} {rate:g}" for part, rate in result["rates"].items())
            cells = [f"`{result['flags']}`", *means, f"{result['parameters']:,}", rates]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        # The best candidate's rates, part by part, among all that the sweep tried.
        best = record["results"][0]
        for part, rate in best["rates"].items():
            which = f"{name} {best['candidate']}'s {part}"
            chosen[which] = rate
            tried[which] = [one["rates"][part] for one in record["results"] if part in one["rates"]]
    _check_alike(rows)
    trials = next(iter(next(iter(rows.values())).values()))
    differences = difference_lines(rows, SCORES, 3, _cluster_of)
    parts = [
        *([f"Judged by CLIP {judge}."] if judge else []),
        coverage_of(trials),
        *rate_notes(chosen, tried),
        "### Differences",
        "\n".join(differences),
        BY_CHANCE,
    ]
    return "\n\n".join(["\n".join(lines), *parts]) + "\n"


def _judge_of(records: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the common judge of sweeps; None if no record names one, as in earlier versions.

    Raises:
        StudioError: the sweeps have different judges.
    """
    judges = {name: record.get("clip", EMBEDDED) for name, record in records.items()}
    if len(set(judges.values())) > 1:
        listed = ", ".join(f"{name} by {judge}" for name, judge in judges.items())
        raise StudioError(
            "--stored: expected sweeps with one judge, whose scores can be compared; got "
            f"{listed}. Name only sweeps of the same judge."
        )
    return next((record["clip"] for record in records.values() if "clip" in record), None)


def coverage_of(trials: Collection[_Pair]) -> str:
    """Describe in a sentence what the intervals cover."""
    subjects = list(dict.fromkeys(subject for subject, _ in trials))
    each = len(trials) // len(subjects)
    seeds = "one training seed" if each == 1 else f"{each} training seeds"
    if len(subjects) > 1:
        return (
            f"± is the 95% interval of the mean by Student's t over {len(subjects)} subject means "
            f"of {seeds} each: it covers other subjects of the same world."
        )
    if each > 1:
        return (
            f"One subject, {subjects[0]}: ± is the 95% interval of the mean by Student's t over "
            f"{seeds}. It covers prompts and seeds of one subject; another may differ by more."
        )
    return f"One subject, {subjects[0]}, and one training seed: there is no interval."


def _row(record: Mapping[str, Any], candidate: int) -> _Row:
    own = [trial for trial in record["trials"] if trial["candidate"] == candidate]
    return {name: {(t["subject"], t["seed"]): t[name] for t in own} for name in SCORES}


def _cluster_of(pair: _Pair) -> str:
    return pair[0]


def _mean(values: Mapping[_Pair, float]) -> Mean:
    return mean_of(list(values.values()), [_cluster_of(pair) for pair in values])


def _format(found: Mean) -> str:
    return f"{found.value:.3f}" + ("" if found.half is None else f" ± {found.half:.3f}")


def _check_alike(rows: Mapping[str, _Row]) -> None:
    first, *others = rows
    for other in others:
        if rows[other][SCORES[0]].keys() != rows[first][SCORES[0]].keys():
            raise StudioError(
                f"--stored: expected sweeps of the same subjects and seeds; {other} has others "
                f"than {first}. Leave one of them out."
            )
