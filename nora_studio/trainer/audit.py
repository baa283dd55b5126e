"""Compare two runs: their adapters, last checkpoints, log lines and samples."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from nora_studio.errors import StudioError
from nora_studio.photos.opening import open_image
from nora_studio.runs.checksums import CHECKSUMS
from nora_studio.runs.runs import Run

MEASURED = (
    "seconds_per_step", "images_per_second", "examples_per_second", "memory_gib", "time",
)  # fmt: skip
"""Names in a log line that depend on the machine and not on the training."""


@dataclass(frozen=True)
class Agreement:
    """The difference between two runs in one kind of file, or in their logs."""

    what: str
    compared: int
    """Number of files, or of lines of the log."""
    differing: int
    """How many of them are not bitwise equal."""
    absolute: float = 0.0
    """Largest difference of two numbers; infinite if anything but numbers differs."""
    relative: float = 0.0
    """The same, divided by the largest value of its tensor, image, or name in the log."""
    where: str = ""
    """Name of the first that differs."""

    def within(self, tolerance: float) -> bool:
        """Return whether anything was compared, with no relative difference above a tolerance."""
        return self.compared > 0 and self.relative <= tolerance and not math.isinf(self.absolute)


def compare_runs(one: Path, other: Path) -> list[Agreement]:
    """Compare two finished runs.

    Raises:
        StudioError: one is not a run, or has no checkpoint.
    """
    runs = [Run.open(folder) for folder in (one, other)]
    newest = []
    for run in runs:
        if not run.checkpoints():
            raise StudioError(
                f"{run.folder} has no checkpoint to compare. Train again with a smaller "
                "--checkpoint-every."
            )
        newest.append(list(run.checkpoints().values())[-1])
    return [
        _compare_folders("final adapter", *(run.adapter for run in runs)),
        _compare_folders(f"checkpoint {newest[0].name}", *newest),
        _compare_logs(*runs),
        _compare_folders("samples", *(run.folder / "samples" for run in runs)),
    ]


def _compare_folders(what: str, one: Path, other: Path) -> Agreement:
    names = sorted({str(f.relative_to(top)) for top in (one, other) for f in _compared_files(top)})
    gaps = {name: _gap(one / name, other / name) for name in names}
    if one.name != other.name:
        gaps[one.name] = (math.inf, math.inf)
    return _agreement(what, gaps)


def _compared_files(top: Path) -> Iterator[Path]:
    # Checksums are left out: they differ if the files do, which are compared themselves.
    return (file for file in top.rglob("*") if file.is_file() and file.name != CHECKSUMS)


def _agreement(what: str, gaps: dict[str, tuple[float, float] | None]) -> Agreement:
    """Summarise (absolute, relative) differences by name; None stands for bitwise equality."""
    apart = {name: gap for name, gap in gaps.items() if gap is not None}
    return Agreement(
        what=what,
        compared=len(gaps),
        differing=len(apart),
        absolute=max((gap[0] for gap in apart.values()), default=0.0),
        relative=max((gap[1] for gap in apart.values()), default=0.0),
        where=next(iter(apart), ""),
    )


def _gap(one: Path, other: Path) -> tuple[float, float] | None:
    """Return the largest absolute and relative difference of two files; None if equal."""
    if not (one.is_file() and other.is_file()):
        return math.inf, math.inf
    if one.read_bytes() == other.read_bytes():
        return None
    if one.suffix == ".safetensors":
        (facts, tensors), (other_facts, others) = _read(one), _read(other)
        if facts != other_facts or tensors.keys() != others.keys():
            return math.inf, math.inf
        gaps = [_tensor_gap(tensors[name], others[name]) for name in tensors]
    elif one.suffix == ".png":
        gaps = [_tensor_gap(_pixels(one), _pixels(other))]
    else:
        return math.inf, math.inf
    return max(gap[0] for gap in gaps), max(gap[1] for gap in gaps)


def _read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(file, framework="pt") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        return archive.metadata() or {}, tensors


def _pixels(file: Path) -> Tensor:
    with open_image(file) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32))


def _tensor_gap(one: Tensor, other: Tensor) -> tuple[float, float]:
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf, math.inf
    if not one.is_floating_point():  # The state of a generator or a queue: equal or not.
        return (0.0, 0.0) if torch.equal(one, other) else (math.inf, math.inf)
    absolute = float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if absolute == 0:
        return 0.0, 0.0
    return absolute, absolute / max(float(one.double().abs().max()), 1e-30)


def _compare_logs(one: Run, other: Run) -> Agreement:
    """Compare the logs line by line, without the names in `MEASURED`."""
    rows = [
        {(n, row["step"]): _comparable_values(row) for n, row in enumerate(run.read_log())}
        for run in (one, other)
    ]
    largest: dict[str, float] = {}
    for values in (*rows[0].values(), *rows[1].values()):
        for name, value in values.items():
            largest[name] = max(largest.get(name, 0.0), abs(value))
    gaps: dict[str, tuple[float, float] | None] = {}
    for key in sorted(rows[0].keys() | rows[1].keys()):
        a, b = (side.get(key) for side in rows)
        label = f"the line of step {key[1]}"
        if a is None or b is None or a.keys() != b.keys():
            gaps[label] = (math.inf, math.inf)
        elif a == b:
            gaps[label] = None
        else:
            apart = {name: abs(a[name] - b[name]) for name in a}
            shares = [gap / max(largest[name], 1e-30) for name, gap in apart.items()]
            gaps[label] = max(apart.values()), max(shares)
    return _agreement("losses", gaps)


def _comparable_values(row: dict[str, object]) -> dict[str, float]:
    """Return the values of a line that depend on the training; nested ones by dotted names."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if name in MEASURED:
            continue
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": float(inner) for key, inner in value.items()}
        elif isinstance(value, int | float):
            flat[name] = float(value)
        else:
            flat[f"{name}={json.dumps(value)}"] = 0.0
    return flat
