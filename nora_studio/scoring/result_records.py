"""Values from the records in assets/, by the unit of their mean, and formatted with intervals."""

import functools
import json
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from nora_studio.mini.assets import assets_dir
from nora_studio.scoring.statistics import difference_in_words, mean_difference, mean_of

SWEEPS = ("lora", "nora", "lora-without-captions", "nora-without-captions")
"""Records of `evaluation/sweep.py`."""
Values = dict[Hashable, float]
"""Values by the key of a pair: a seed, or a subject and a seed."""
Cell = Mapping[str, Any]


@functools.cache
def read_record(name: str) -> dict[str, Any]:
    """Read a JSON record of measured results from assets/."""
    return json.loads((assets_dir() / f"{name}.json").read_text(encoding="utf-8"))


def interval(values: Values, digits: int, cluster: Callable | None = None) -> str:
    """Format a mean with its 95% interval: "77.4 ± 1.9"; without one where nothing varies."""
    clusters = None if cluster is None else [cluster(key) for key in values]
    found = mean_of(list(values.values()), clusters)
    text = f"{found.value:.{digits}f}"
    return text if not found.half else f"{text} ± {found.half:.{digits}f}"


def difference(first: Values, second: Values, digits: int, cluster: Callable | None = None) -> str:
    """Format first minus second, pair by pair, with its 95% interval."""
    return difference_in_words(mean_difference(first, second, cluster), digits)


def subject_of(trial: tuple[str, int]) -> str:
    """Return the subject of a trial; trials of one subject are one unit of an interval."""
    return trial[0]


def sweep_trials() -> dict[str, list[Cell]]:
    """Return each sweep's trials at the settings that were the best with captions."""
    found = {}
    for name in SWEEPS:
        own = read_record(f"sweep/{name}")
        flags = read_record(f"sweep/{own['method']}")["results"][0]["flags"]
        number = next(r["candidate"] for r in own["results"] if r["flags"] == flags)
        found[name] = [trial for trial in own["trials"] if trial["candidate"] == number]
    return found


def sweep_scores(name: str, score: str) -> Values:
    """Return one score of a sweep by subject and seed."""
    return {(trial["subject"], trial["seed"]): trial[score] for trial in sweep_trials()[name]}


def commonsense_values(label: str) -> Values:
    """Return the percentage of commonsense questions answered correctly, by seed."""
    cells = read_record("table1/table1")["cells"]
    return {cell["seed"]: 100 * cell["average"] for cell in cells if cell["label"] == label}


def few_shot_values(method: str, shots: int) -> Values:
    """Return the percentage of test images classified correctly, by seed."""
    return {
        cell["seed"]: 100 * cell["accuracy"]
        for cell in read_record("table2/table2")["cells"]
        if (cell["method"], cell["shots"]) == (method, shots)
    }


def step_cost(shape_name: str, label: str) -> Cell:
    """Return the cost of a training step: `seconds_per_step` and `peak_gib`."""
    return next(cell for cell in read_record("table1/costs")[shape_name] if cell["label"] == label)
