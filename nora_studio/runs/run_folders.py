"""Find the folder of each method's run: by name for a new run, by the given path when resuming.

A run's `config.toml` holds the name and the folder of runs that it was started with. The run may
have been moved or renamed since, so the path that is given on the command line takes precedence.
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


def locate_runs(
    options: Options, argv: Sequence[str] | None = None
) -> tuple[Options, dict[str, Run]]:
    """Find the run of each method, and set the options' folder and the name they started with.

    A new run is `OUTPUT_DIR/NAME-METHOD`. So is a resumed run, unless the options come from a run's
    own `config.toml` and neither --name nor --output-dir is given.

    Args:
        options: A trainer's options, with `methods`, `output_dir`, `name` and `resume`.
        argv: The command line that they come from. None: this process's.

    Raises:
        StudioError: the method of a renamed folder is unknown, or a twin is missing.
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
    original_options = read_config(existing[0].folder / CONFIG)
    _check_twins(runs, original_options)
    # The old name is kept because other values derive from it, such as the trigger of new tokens.
    default = next(field.default for field in dataclasses.fields(known) if field.name == "name")
    changes = {
        "output_dir": existing[0].folder.parent,
        "name": original_options.get("name", default),
    }
    return dataclasses.replace(known, **changes), runs


def _is_run(folder: Path) -> bool:
    """Return whether a trainer has written to a folder; a config.toml alone does not show it."""
    return any((folder / name).exists() for name in (".lock", "log.jsonl", "checkpoints"))


def _given_folder(argv: Sequence[str]) -> Path | None:
    """Return the run whose own settings a command line names, if it names no other place."""
    words = [word.partition("=") for word in argv]
    flags = {flag.replace("_", "-") for flag, _, _ in words}
    if flags & {"--name", "--output-dir"}:
        return None
    for (flag, equals, value), following in reversed(
        list(zip(words, [*argv[1:], ""], strict=False))
    ):
        file = Path(value if equals else following).expanduser()
        if flag == "--config" and file.name.lower() == CONFIG and _is_run(file.parent):
            folder = file.parent
            if folder.name in ("", "..") or folder.is_symlink():
                folder = folder.resolve()  # The real name says the method and where the twins are.
            return folder if Run(folder).exists else None
    return None


def _siblings(folder: Path, methods: Sequence[str], name: str) -> dict[str, Run]:
    """Return a run and its twins, which are in the same folder, by its name or the original one."""
    own = Run(folder).method_among(methods)
    if own is None:
        raise StudioError(
            f"--resume: expected a folder whose name ends with one of the methods "
            f"{', '.join(methods)}; got {folder}. Rename it, for example to "
            f"{folder.name}-{methods[0]}."
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


def _check_twins(runs: dict[str, Run], original_options: dict[str, Any]) -> None:
    """Refuse to resume a run while a twin of it is missing or is left out."""
    for method, run in runs.items():
        twin = next((other for other in runs.values() if other.checkpoints()), None)
        if not run.exists and twin is not None and run.method != twin.method:
            alone = ",".join(other.method for other in runs.values() if other.exists)
            raise StudioError(
                f"--resume: {twin.folder} was trained together with {method}, whose run is not in "
                f"{run.folder}. Move it there, or continue without it: --method {alone}."
            )
    trained = [word.strip() for word in str(original_options.get("method", "")).split(",")]
    left = [method for method in trained if method not in runs]
    for run in runs.values():
        for other in left:
            place = run.folder.with_name(_renamed(run.folder.name, run.method, other))
            if Run(place).exists and place != run.folder:
                raise StudioError(
                    f"--method: {run.folder} was trained together with {place}, so both must be "
                    f"resumed. Give --method {','.join(trained)} as before."
                )


def _renamed(name: str, method: str, other: str) -> str:
    """Return a run's name with another method's suffix."""
    return f"{name[: -len(method)]}{other}" if name.lower().endswith(f"-{method}") else name
