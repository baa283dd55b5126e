"""Checks that a run is resumed with the options and the data that it was started with."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.runs.run_files import CONFIG, PHOTOS, flat_settings, read_config, read_digests

FREE = frozenset({"resume", "name", "output_dir", "capture"})
"""Options that may differ: a run may have been moved or renamed, --resume is given later, and
captured steps run the same kernels."""


def check_same_options(
    folder: Path, config: str, defaults: str = "", planned: str | None = None
) -> None:
    """Refuse to resume a run with other options than it was started with.

    Allowed are more steps, another name or folder, and another spelling of a path.

    Args:
        folder: The run's folder.
        config: The current options, as TOML.
        defaults: Values for options that the run's settings lack, as later versions added them.
        planned: The run's method if it plans over all steps, so that they cannot be raised.

    Raises:
        StudioError: an option differs; the message has both values.
    """
    file = folder / CONFIG
    values = read_config(file), tomllib.loads(config)
    original_options, now = (
        flat_settings(tomllib.loads(defaults)) | flat_settings(table) for table in values
    )
    longer = now.get("steps", 0) > original_options.get("steps", 0)
    if longer and planned is not None:
        raise StudioError(
            f"--steps: expected {original_options.get('steps')}, with which {folder} was started: "
            f"{planned} plans over all steps of a run, so it cannot be trained for more. Start a "
            "new run."
        )
    free = FREE | ({"steps"} if longer else set())
    if set(split_methods(now.get("method"))) < set(split_methods(original_options.get("method"))):
        free |= {"method"}  # Resumed without a twin (`run_folders`).
    for name in sorted((original_options.keys() | now.keys()) - free):
        one, other = original_options.get(name), now.get(name)
        if _is_same(one, other):
            continue
        if name != "model":
            raise StudioError(
                f"--resume: {folder} was started with {name} = {one!r}; got {other!r}. Resume with "
                f"`--config {file} --resume`."
            )
        if not _is_gone(one):  # A moved model is recognised by its weights (`files.load_weights`).
            raise StudioError(
                f"--model: expected {one}, on which {folder} was trained; got {other}. Leave "
                "--model as it was, or start another run with another --name."
            )


def check_same_data(folder: Path, now: Mapping[str, str], data: str = "photos") -> None:
    """Refuse to resume a run with other data than it was started with.

    Args:
        folder: The run's folder.
        now: Current digests by name.
        data: What the digests are of, for the message.

    Raises:
        StudioError: a file is missing, new or changed; the message names it.
    """
    file = folder / PHOTOS
    original = read_digests(file) if file.exists() else now
    for name in sorted(original.keys() | now.keys()):
        if original.get(name) == now.get(name):
            continue
        change = "has changed" if name in original and name in now else "is new"
        included = ", including captions and masks" if data == "photos" else ""
        raise StudioError(
            f"--resume: expected the same {data} that {folder} was started with, but {name} "
            f"{change if name in now else 'is missing'}. Restore them as they were{included}, or "
            "start another run with another --name."
        )


def split_methods(methods: object) -> list[str]:
    """Split the value of --method at its commas."""
    return [word.strip() for word in str(methods or "").split(",") if word.strip()]


def _is_same(one: object, other: object) -> bool:
    """Return whether two values of an option are equal, or are paths of the same file or folder."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    try:
        places = [Path(text).expanduser() for text in (one, other)]
        # At least one must look like a path: two words are not equal because files are called so.
        return any(len(place.parts) > 1 for place in places) and places[0].samefile(places[1])
    except (OSError, ValueError, RuntimeError):
        return False


def _is_gone(model: object) -> bool:
    """Return whether a model is named by a path that does not exist any more."""
    text = str(model)
    is_path = text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text
    try:
        return is_path and not Path(text).expanduser().exists()
    except (OSError, RuntimeError):
        return False
