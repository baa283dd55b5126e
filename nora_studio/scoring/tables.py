"""What the tables of results share: checks of what they are asked for, differences, caveats."""

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
    """Refuse no values, and any that is there twice.

    Raises:
        StudioError: the values of `flag` are so.
    """
    if not values or len(set(values)) < len(values):
        raise StudioError(f"{flag}: expected at least one, each once; got {values}.")


def check_options(words: Sequence[str], taken: Collection[str]) -> None:
    """Refuse options for every run, such as "dataset=dtd", that the table sets itself.

    Args:
        taken: Their names, with underscores.

    Raises:
        StudioError: one is among them.
    """
    named = {word.partition("=")[0].replace("-", "_") for word in words} & set(taken)
    if named:
        raise StudioError(
            f"--options: {', '.join(sorted(named))}: set by the table itself. Leave it out."
        )


def check_settings(file: Path, began: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse what was made under other settings than the table is asked for.

    Args:
        file: Where it is kept, for the message.
        began: The settings that it was made under.

    Raises:
        StudioError: one differs; it is named with both values.
    """
    for name in sorted(began.keys() | settings.keys()):
        if began.get(name) != settings.get(name):
            raise StudioError(
                f"{file} was trained with {name} = {began.get(name)!r}; this table asks for "
                f"{settings.get(name)!r}. Cells of different settings do not go into one table: "
                "ask as before, or take another --out."
            )


def check_stored(options: Any) -> None:
    """Refuse options beside `stored` and `out`: a stored record has been made already.

    Raises:
        StudioError: another one is not at its default; it is named.
    """
    for field in dataclasses.fields(options):
        default = getattr(type(options)(), field.name)
        if field.name not in ("stored", "out") and getattr(options, field.name) != default:
            flag = field.name.replace("_", "-")
            raise StudioError(
                f"--{flag}: --stored draws what was measured before, to which it adds nothing. "
                "Leave one of them out."
            )


def read_record(file: Path, names: Collection[str]) -> dict[str, Any]:
    """Read a table's record back.

    Args:
        names: What must be in it.

    Raises:
        StudioError: the file is missing, damaged, or is no such record.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudioError(f"--stored: {file} cannot be read: {reason}.") from error
    if not isinstance(record, dict) or not set(names) <= record.keys():
        raise StudioError(
            f"--stored: expected a record with {', '.join(sorted(names))}; {file} has none. Name "
            "the JSON file that the same script wrote."
        )
    return record


def write_page(file: Path, text: str) -> int:
    """Write a table's page and print it; the exit status of a script that ends with this."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    print(text, end="")
    return 0


def rate_caveat(chosen: float, tried: Collection[float]) -> str | None:
    """Say what the search for a learning rate leaves open; None where rates on both sides lost.

    One rule for every method and table: a rate at either end of what was tried has no worse
    neighbour on one side, so that a better one may lie there.
    """
    if len(set(tried)) < 2:
        return NOT_SEARCHED
    return None if min(tried) < chosen < max(tried) else AT_EDGE


def rate_notes(chosen: Mapping[str, float], tried: Mapping[str, Collection[float]]) -> list[str]:
    """The caveats of a table's rates, a sentence for each kind; who needs none is left out.

    Args:
        chosen: By method; those that train alone.
        tried: By method; one that is missing tried none but its own.
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
        words = "Learning rates at the edge of their grid, so that a better one may lie beyond: "
        notes.append(words + ", ".join(found[AT_EDGE]) + ".")
    if found[NOT_SEARCHED]:
        words = "Learning rates that were not searched, so that a better one may lie on either side"
        notes.append(f"{words}: {', '.join(found[NOT_SEARCHED])}.")
    return notes


def counted_units(counts: Iterable[int], unit: str) -> str:
    """How many units each mean is over: "3 seeds", or "1 to 3 seeds" where rows differ."""
    found = list(counts)
    few, many = min(found), max(found)
    return f"{many} {unit}" if few == many else f"{few} to {many} {unit}"


def difference_lines(
    rows: Mapping[str, Mapping[str, Mapping[_Key, float]]],
    columns: Sequence[str],
    digits: int,
    cluster_of: Callable[[_Key], Hashable] | None = None,
) -> list[str]:
    """Every later row minus every earlier one, paired, as lines of Markdown.

    Args:
        rows: Row -> column -> values by what makes a pair, such as the seed.
        columns: In this order; a row may lack some.
        digits: After the point.
        cluster_of: As `mean_difference` takes it.
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
