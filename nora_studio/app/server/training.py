"""The trainer's command: built from the Train page's form, and parsed back after an edit."""

import functools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nora_studio.app.server.allowed_arguments import MAX_CHARACTERS, check_arguments_allowed
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options
from nora_studio.options.paths import check_inside, check_text
from nora_studio.runs.scripts import TRAIN, script_command

PROGRAM = ("nora-studio", "train")
PRESETS = {"quick": 0.5, "balanced": 1.0, "best": 2.0}
"""Factors on the recommended number of steps."""
SAMPLES = 4
"""Number of times that a training generates samples."""
EMBEDDED_SAMPLE_STEPS = "15"
COMMAND_LENGTH = MAX_CHARACTERS
_RESERVED_OPTIONS = {"tracker", "fit", "preflight", "preflight_out", "resume"}
"""Options that the page may not set: they reach other folders, or belong to other buttons."""


@dataclass(frozen=True)
class TrainRequest:
    """The values of the Train page's first step."""

    name: str
    """Name of the run and of its folder of photos."""
    class_word: str
    """The subject's class: "mug", "dog"."""
    model: str = EMBEDDED
    preset: str = "balanced"
    methods: tuple[str, ...] = ("nora", "lora")
    more: tuple[str, ...] = ()
    """Further flags from the Advanced section."""


def recommended_steps(model: str, preset: str) -> int:
    """Return the number of steps of a preset on a model."""
    if preset not in PRESETS:
        raise StudioError(f"expected a preset ({', '.join(PRESETS)}); got {preset[:40]!r}.")
    plain = DreamboothOptions(instance_dir=Path("photos"), prompt="[V]", model=model)
    return round((with_recommended(plain).steps or 0) * PRESETS[preset])


def train_arguments(request: TrainRequest) -> list[str]:
    """Return the trainer's arguments for a request, with paths relative to the visitor's folder."""
    noun = " ".join(request.class_word.split())
    if not noun or len(noun) > 60:
        raise StudioError(
            "write in a word or two what the subject is, such as mug, dog or toy car."
        )
    arguments = ["--instance-dir", f"photos/{check_name(request.name)}"]
    arguments += ["--prompt", f"a photo of a [V] {noun}", "--name", request.name]
    if request.model != EMBEDDED:
        arguments += ["--model", request.model]
    arguments += ["--method", ",".join(request.methods)]
    steps = recommended_steps(request.model, request.preset)
    arguments += ["--steps", str(steps)]
    often = str(max(1, round(steps / SAMPLES)))
    usual = {"--sample-every": often, "--checkpoint-every": often}
    if request.model == EMBEDDED:
        usual["--sample-steps"] = EMBEDDED_SAMPLE_STEPS
    for flag, value in usual.items():
        arguments += [] if flag in request.more else [flag, value]
    return [*arguments, *request.more]


def shown_command(arguments: Sequence[str]) -> str:
    """Return the command as a person would type it, one flag per line."""
    lines, line = [], " ".join(PROGRAM)
    for word in arguments:
        if word.startswith("--") and line:
            lines.append(line)
            line = f"    {word}"
        else:
            line += f" {shlex.quote(word)}"
    return " \\\n".join([*lines, line])


def parse_shown_command(shown: str) -> list[str]:
    """Return the trainer's arguments in a command that the visitor may have edited.

    Raises:
        StudioError: it is another command, or cannot be parsed.
    """
    if len(shown) > COMMAND_LENGTH:
        raise StudioError(
            f"the command has {len(shown):,} characters; the limit is {COMMAND_LENGTH:,}. Shorten "
            "it."
        )
    check_text(shown, "the command")
    try:
        words = shlex.split(shown.replace("\\\n", " "), comments=False)
    except ValueError as error:
        raise StudioError(f"the command cannot be read: {error}.") from error
    if tuple(words[:2]) != PROGRAM:
        raise StudioError(
            f"the command must begin with `{' '.join(PROGRAM)}`; it begins with "
            f"`{' '.join(words[:2])[:80]}`."
        )
    return words[2:]


def read_arguments(arguments: Sequence[str]) -> DreamboothOptions:
    """Return the options that the trainer's arguments describe, recommended values filled in.

    Only the trainer's options and their values reach a parser, here and in the job.

    Raises:
        StudioError: a flag is unknown, or a value is out of range.
    """
    check_arguments_allowed(DreamboothOptions, arguments)
    return _parse(tuple(arguments))


@functools.lru_cache(maxsize=256)  # A page requests the same command every two seconds.
def _parse(arguments: tuple[str, ...]) -> DreamboothOptions:
    return with_recommended(parse_options(arguments, prog=" ".join(PROGRAM)))


def check_arguments(
    workspace: Workspace, arguments: Sequence[str], is_model_allowed: Any
) -> DreamboothOptions:
    """Return the options of a visitor's training, if it uses only their own folder.

    Args:
        is_model_allowed: Returns whether this studio may load a model's name or directory.

    Raises:
        StudioError: an option is wrong or names another folder, or the run exists already.
    """
    if any(word.split("=")[0] == "--config" for word in arguments):
        raise StudioError(
            "--config is not available in the studio. Write the options into the command instead."
        )
    options = read_arguments(arguments)
    plain = DreamboothOptions(instance_dir=Path(), prompt="")
    for name in _RESERVED_OPTIONS:
        if getattr(options, name) != getattr(plain, name):
            raise StudioError(
                f"--{name.replace('_', '-')} is not available in the studio. Leave it out."
            )
    if options.output_dir != plain.output_dir:
        raise StudioError("--output-dir: the studio keeps runs in `runs`. Leave the option out.")
    _check_own_paths(workspace, options)
    check_name(options.run_name)
    for name in (options.model, options.clip):
        if name is not None and not is_model_allowed(name):
            raise StudioError(
                f"--model: expected 'embedded', a Hub name (owner/name) or a directory that this "
                f"studio may read (--models when it was started); got {name[:80]!r}."
            )
        if name is not None:
            workspace.check_model(name)
    for run in runs_of(options):
        if (workspace.runs / run / "config.toml").exists():
            raise StudioError(
                f"there is a run {run} already. Choose another name, or delete that run."
            )
    return options


def _check_own_paths(workspace: Workspace, options: DreamboothOptions) -> None:
    """Refuse a path option that would open anything but the visitor's own files."""
    hints = get_type_hints(DreamboothOptions)
    for option in fields(DreamboothOptions):
        value, flag = getattr(options, option.name), f"--{option.name.replace('_', '-')}"
        # The folder of runs is not read; a run that is resumed is checked separately.
        is_path = Path in (hints[option.name], *get_args(hints[option.name]))
        if not is_path or value is None or option.name == "output_dir":
            continue
        if Path(value) == Path():
            raise StudioError(
                f"{flag}: expected a folder of your own, such as photos/my-mug; got your whole "
                "workspace."
            )
        check_inside(workspace.folder, value, flag)


def runs_of(options: DreamboothOptions) -> list[str]:
    """Return the names of the runs that a training writes, one for each method."""
    return [f"{options.run_name}-{method}" for method in options.methods]


def train_command(arguments: Sequence[str]) -> list[str]:
    """Return the command to run: the trainer in this Python."""
    return script_command(TRAIN, arguments)
