"""Whether a run goes on under the options, and with the data, that it began with."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.runs.run_files import CONFIG, PHOTOS, flat_settings, read_config, read_digests

FREE = frozenset({"resume", "name", "output_dir"})
"""A run may have been moved or renamed since, and is asked to be resumed only then."""


def check_same_options(
    folder: Path, config: str, defaults: str = "", planned: str | None = None
) -> None:
    """Refuse to go on under other options than a run began with; more steps are no others.

    Nor are its name and folder, and another spelling of a path.

    Args:
        folder: The run's.
        config: The options now, as TOML.
        defaults: What an option comes to that the run is silent on: one of later versions.
        planned: Its method, where that plans over the steps, so that it cannot go on longer.

    Raises:
        StudioError: an option differs; it is named with both values.
    """
    file = folder / CONFIG
    values = read_config(file), tomllib.loads(config)
    began, now = (flat_settings(tomllib.loads(defaults)) | flat_settings(table) for table in values)
    longer = now.get("steps", 0) > began.get("steps", 0)
    if longer and planned is not None:
        raise StudioError(
            f"--steps: {planned} plans over all steps of a run, and {folder} began with "
            f"{began.get('steps')}; it cannot go on longer. Begin a new run."
        )
    free = FREE | ({"steps"} if longer else set())
    if set(words_of(now.get("method"))) < set(words_of(began.get("method"))):
        free |= {"method"}  # Without a twin that is not here (`run_places`).
    for name in sorted((began.keys() | now.keys()) - free):
        one, other = began.get(name), now.get(name)
        if _is_same(one, other):
            continue
        if name != "model":
            raise StudioError(
                f"--resume: {folder} began with {name} = {one!r}; got {other!r}. Resume with "
                f"`--config {file} --resume`."
            )
        if not _is_gone(one):  # One that was moved is told by its weights (`files.load_weights`).
            raise StudioError(
                f"--model: {folder} was trained on {one}; --model says {other}. Leave --model as "
                "it was, or begin another run with another --name."
            )


def check_same_data(folder: Path, now: Mapping[str, str], data: str = "photos") -> None:
    """Refuse to go on with other data than a run began with.

    Args:
        folder: The run's.
        now: Digests by name.
        data: What they are of, in words.

    Raises:
        StudioError: one is gone, new or changed; it is named.
    """
    file = folder / PHOTOS
    began = read_digests(file) if file.exists() else now
    for name in sorted(began.keys() | now.keys()):
        if began.get(name) == now.get(name):
            continue
        change = "changed" if name in began and name in now else "is new"
        beside = ", captions and masks too" if data == "photos" else ""
        raise StudioError(
            f"--resume: the {data} are not those that {folder} began with: {name} "
            f"{change if name in now else 'is gone'}. Put them back as they were{beside}, or begin "
            "another run with another --name."
        )


def words_of(methods: object) -> list[str]:
    """The methods that an option names, with commas between them."""
    return [word.strip() for word in str(methods or "").split(",") if word.strip()]


def _is_same(one: object, other: object) -> bool:
    """Whether two values of an option are equal, or paths of the same file or folder."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    try:
        places = [Path(text).expanduser() for text in (one, other)]
        # One is spelled as a path: two words are not the same because files have those names.
        return any(len(place.parts) > 1 for place in places) and places[0].samefile(places[1])
    except (OSError, ValueError, RuntimeError):
        return False


def _is_gone(model: object) -> bool:
    """Whether a model is named by a path at which there is nothing any more."""
    text = str(model)
    is_path = text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text
    try:
        return is_path and not Path(text).expanduser().exists()
    except (OSError, RuntimeError):
        return False
