"""The entry scripts: where they are, and how to run one in the foreground."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.stop import SIGHUP

TRAIN = "training/dreambooth_nora.py"
CLIP_SCORE = "evaluation/clip_score.py"
FIDELITY = "evaluation/fidelity.py"
FEWSHOT = "training/clip_fewshot.py"
LLAMA = "training/llama_commonsense.py"
TRAINERS = {"instance_dir": TRAIN, "shots": FEWSHOT, "cutoff": LLAMA}
"""Each trainer's script, by an option that only its runs have."""
GENERATING = "Generating"
"""Name of the progress bar of scripts that generate images, by which the app finds it."""
PROGRAM = "NORA_STUDIO_PROGRAM"
"""Environment variable with the name by which a script's `--help` calls it."""
COMMONSENSE = "evaluation/commonsense.py"


def script_path(name: str) -> Path:
    """Return the path of a script in the checkout, or of its copy inside an installed wheel.

    Args:
        name: Path from the project's root, such as "training/dreambooth_nora.py".

    Raises:
        StudioError: the script is in neither.
    """
    package = Path(__file__).parents[1]
    for top in (package.parent, package / "_bundle"):
        if (top / name).is_file():
            return top / name
    raise StudioError(
        f"expected the script {name} with the package; it is missing. Reinstall nora-studio."
    )


def script_command(name: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a script with this Python."""
    return [sys.executable, str(script_path(name)), *arguments]


def as_flags(words: Sequence[str]) -> list[str]:
    """Turn words such as "steps=100" or "unet.no-train" into command line flags."""
    flags = []
    for word in words:
        name, equals, value = word.partition("=")
        flags += [f"--{name}", value] if equals else [f"--{name}"]
    return flags


def run_script(name: str, arguments: Sequence[str], program: str | None = None) -> int:
    """Run a script in the foreground, with this process's output; return its exit status.

    Args:
        name: As `script_path` takes it.
        arguments: The script's.
        program: What its `--help` calls it, if not by its path.

    Ctrl-C reaches the script too, which then saves and stops; this process waits for it. SIGTERM
    reaches only this process and is passed on. A closed terminal signals both processes; it is not
    passed on, because a second signal would stop the script at once. If this process is killed, the
    system stops the script (on Linux).
    """
    environment = os.environ | ({} if program is None else {PROGRAM: program})
    process = subprocess.Popen(
        script_command(name, arguments), env=environment, preexec_fn=stop_with_parent()
    )
    before: dict[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    }
    if SIGHUP is not None:
        before[SIGHUP] = signal.signal(SIGHUP, lambda *_: None)
    try:
        while True:
            try:
                status = process.wait()
                return status if status >= 0 else 128 - status  # As a shell reports a signal.
            except KeyboardInterrupt:
                continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
