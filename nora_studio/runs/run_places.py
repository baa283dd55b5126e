"""Which folder each method's run is in: by name where it begins, by the path given on resuming.

The name and the folder of runs that a run's `config.toml` holds are those that it began with. A run
may have been moved or renamed since, so they are a hint, and the path given is the truth.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nora_studio.errors import StudioError
from nora_studio.runs.run_files import CONFIG, read_config
from nora_studio.runs.runs import Run

Options = TypeVar("Options")


def placed(options: Options, argv: Sequence[str] | None = None) -> tuple[Options, dict[str, Run]]:
    """Find the run of each method, and give options their true folder and the name they began with.

    A new run is `OUTPUT_DIR/NAME-METHOD`, and so is one to go on with, unless the options come from
    a run's own `config.toml` and neither --name nor --output-dir is given beside it.

    Args:
        options: A trainer's, with `methods`, `output_dir`, `name` and `resume`.
        argv: The command line that they come from. None: this process's.

    Raises:
        StudioError: which method a renamed folder is of cannot be told, or its twin is missing.
    """
    known: Any = options
    name = getattr(known, "run_name", known.name)
    usual = {method: Run(known.output_dir / f"{name}-{method}", method) for method in known.methods}
    if not known.resume:
        return options, usual
    given = _given_folder(sys.argv[1:] if argv is None else argv)
    runs = usual if given is None else _siblings(given, known.methods, name)
    existing = [run for run in runs.values() if run.exists]
    if not existing:
        return options, runs
    began = read_config(existing[0].folder / CONFIG)
    _check_twins(runs, began)
    # Its name also stands for what was derived from it, such as the trigger of new tokens.
    default = next(field.default for field in dataclasses.fields(known) if field.name == "name")
    changes = {"output_dir": existing[0].folder.parent, "name": began.get("name", default)}
    return dataclasses.replace(known, **changes), runs


def _is_run(folder: Path) -> bool:
    """Whether a trainer has written into a folder; any options file may be called config.toml."""
    return any((folder / name).exists() for name in (".lock", "log.jsonl", "checkpoints"))


def _given_folder(argv: Sequence[str]) -> Path | None:
    """The run whose own settings a command line names, if it names no other place."""
    words = [word.partition("=") for word in argv]
    flags = {flag.replace("_", "-") for flag, _, _ in words}
    if flags & {"--name", "--output-dir"}:
        return None
    for (flag, equals, value), following in reversed(
        list(zip(words, [*argv[1:], ""], strict=True))
    ):
        file = Path(value if equals else following).expanduser()
        if flag == "--config" and file.name.lower() == CONFIG and _is_run(file.parent):
            folder = file.parent
            if folder.name in ("", "..") or folder.is_symlink():
                folder = folder.resolve()  # Its own name tells the method, and where its twins are.
            return folder if Run(folder).exists else None
    return None


def _siblings(folder: Path, methods: Sequence[str], name: str) -> dict[str, Run]:
    """A run and its twins, which lie beside it under its name or the one they began with."""
    own = Run(folder).method_among(methods)
    if own is None:
        raise StudioError(
            f"--resume: which of {', '.join(methods)} {folder} is cannot be told. Rename it so "
            f"that its name ends with its method, such as {folder.name}-{methods[0]}."
        )
    stem = folder.name
    if stem.lower().endswith(f"-{own}"):
        stem = stem[: -len(own) - 1]
    stems = [stem, name]
    runs = {own: Run(folder, own)}
    for method in methods:
        if method != own:
            places = [Run(folder.with_name(Path(f"{one}-{method}").name), method) for one in stems]
            runs[method] = next((run for run in places if run.exists), places[0])
    return {method: runs[method] for method in methods}


def _check_twins(runs: dict[str, Run], began: dict[str, Any]) -> None:
    """Refuse to go on with one twin while another is missing that had begun, or is left behind."""
    for method, run in runs.items():
        twin = next((other for other in runs.values() if other.checkpoints()), None)
        if not run.exists and twin is not None and run.method != twin.method:
            alone = ",".join(other.method for other in runs.values() if other.exists)
            raise StudioError(
                f"--resume: {twin.folder} was trained together with {method}, whose run is not at "
                f"{run.folder}. Put it there, or go on without it: --method {alone}."
            )
    trained = [word.strip() for word in str(began.get("method", "")).split(",")]
    left = [method for method in trained if method not in runs]
    for run in runs.values():
        for other in left:
            place = run.folder.with_name(_renamed(run.folder.name, run.method, other))
            if Run(place).exists and place != run.folder:
                raise StudioError(
                    f"--method: {run.folder} was trained together with {place}, and goes on with "
                    "it. Leave --method as it was."
                )


def _renamed(name: str, method: str, other: str) -> str:
    """A run's name with another method's suffix."""
    return f"{name[: -len(method)]}{other}" if name.lower().endswith(f"-{method}") else name
