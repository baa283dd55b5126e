"""Shared parts of the result tables: checks of their options, differences and caveats."""

import dataclasses
import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import write_text
from nora_studio.scoring.statistics import difference_in_words, mean_difference

AT_EDGE = "at the edge of its grid"
NOT_SEARCHED = "not searched"
_Key = TypeVar("_Key", bound=Hashable)


def check_each_once(flag: str, values: Sequence[object]) -> None:
    """Refuse an option without values, or with a repeated one.

    Raises:
        StudioError: there is no value, or one is given twice.
    """
    if not values or len(set(values)) < len(values):
        raise StudioError(
            f"{flag}: expected one or more different values; got {values}. Give each once."
        )


def check_options(words: Sequence[str], taken: Collection[str]) -> None:
    """Refuse options for every run, such as "dataset=dtd", that the table sets itself.

    Args:
        taken: Names of the options that the table sets, with underscores.

    Raises:
        StudioError: one of them is given.
    """
    named = {word.partition("=")[0].replace("-", "_") for word in words} & set(taken)
    if named:
        raise StudioError(
            f"--options: the table sets {', '.join(sorted(named))} itself. Leave it out."
        )


def check_settings(file: Path, stored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse results that were made with other settings than the table's.

    Args:
        file: The file of the results, for the message.
        stored: The settings with which the results were made.

    Raises:
        StudioError: a setting differs; the message has both values.
    """
    for name in sorted(stored.keys() | settings.keys()):
        if stored.get(name) != settings.get(name):
            raise StudioError(
                f"{name}: expected {stored.get(name)!r}, with which {file} was made; got "
                f"{settings.get(name)!r}. Use the same settings as before, or another --out."
            )


def check_stored(options: Any) -> None:
    """Refuse options besides `stored` and `out`, which would have no effect.

    Raises:
        StudioError: another option is not at its default; the message names it.
    """
    for field in dataclasses.fields(options):
        default = getattr(type(options)(), field.name)
        if field.name not in ("stored", "out") and getattr(options, field.name) != default:
            flag = field.name.replace("_", "-")
            raise StudioError(
                f"--{flag}: it has no effect with --stored, which shows earlier results. Leave one "
                "of them out."
            )


def read_record(file: Path, names: Collection[str]) -> dict[str, Any]:
    """Read the record of a table.

    Args:
        names: Keys that it must have.

    Raises:
        StudioError: the file is missing or damaged, or is not such a record.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudioError(f"--stored: {file} cannot be read: {reason}.") from error
    if not isinstance(record, dict) or not set(names) <= record.keys():
        raise StudioError(
            f"--stored: expected a record with {', '.join(sorted(names))}; {file} lacks some of "
            "them. Name a JSON file that the same script wrote."
        )
    return record


def write_page(file: Path, text: str) -> int:
    """Write a table's page, print it, and return the exit status 0."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print(text, end="")
    return 0


def rate_caveat(chosen: float, tried: Collection[float]) -> str | None:
    """Return a caveat about the search for a learning rate; None if both neighbours were worse.

    The same rule for every method and table: the lowest or highest rate that was tried has no
    neighbour on one side, so a better rate may lie there.
    """
    if len(set(tried)) < 2:
        return NOT_SEARCHED
    return None if min(tried) < chosen < max(tried) else AT_EDGE


def rate_notes(chosen: Mapping[str, float], tried: Mapping[str, Collection[float]]) -> list[str]:
    """Return the caveats of a table's learning rates, one sentence for each kind.

    Args:
        chosen: The chosen rate of each method that is trained.
        tried: The rates that were tried, by method; if missing, only the chosen one.
    """
    found: dict[str, list[str]] = {AT_EDGE: [], NOT_SEARCHED: []}
    for name, rate in chosen.items():
        grid = sorted(set(tried.get(name, ())))
        caveat = rate_caveat(rate, grid)
        if caveat == AT_EDGE:
            found[AT_EDGE].append(f"{name} ({rate:g} of {', '.join(f'{r:g}' for r in grid)})")
        elif caveat == NOT_SEARCHED:
            found[NOT_SEARCHED].append(f"{name} ({rate:g})")
    notes = []
    if found[AT_EDGE]:
        text = "Learning rates at the edge of their grid, so that a better one may lie beyond: "
        notes.append(text + ", ".join(found[AT_EDGE]) + ".")
    if found[NOT_SEARCHED]:
        text = "Learning rates that were not searched, so that a better one may lie on either side"
        notes.append(f"{text}: {', '.join(found[NOT_SEARCHED])}.")
    return notes


def counted_units(counts: Iterable[int], unit: str) -> str:
    """Describe how many units means are over: "3 seeds", or "1 to 3 seeds" if rows differ."""
    found = list(counts)
    few, many = min(found), max(found)
    return f"{many} {unit}" if few == many else f"{few} to {many} {unit}"


def difference_lines(
    rows: Mapping[str, Mapping[str, Mapping[_Key, float]]],
    columns: Sequence[str],
    digits: int,
    cluster_of: Callable[[_Key], Hashable] | None = None,
) -> list[str]:
    """Return a Markdown table of every later row minus every earlier one, paired.

    Args:
        rows: Values by row, column, and key of a pair, such as the seed.
        columns: Columns in this order; a row may lack some.
        digits: Digits after the point.
        cluster_of: Function from a key to its cluster, as for `mean_difference`.
    """
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for second, first in combinations(rows, 2):
        cells = [
            difference_in_words(
                mean_difference(
                    rows[first].get(column, {}), rows[second].get(column, {}), cluster_of
                ),
                digits,
            )
            for column in columns
        ]
        lines.append(f"| {first} − {second} | {' | '.join(cells)} |")
    return lines


BY_CHANCE = (
    "Every row minus every other, pair by pair, ± its 95% interval by Student's t. Of intervals "
    "where nothing differs, one in twenty leaves zero out by chance."
)
