"""Where the entry scripts lie, and how one is started as a person would start it."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nora_studio.errors import StudioError
from nora_studio.runs.orphans import ending_with_us
from nora_studio.runs.stop import SIGHUP

TRAIN = "training/dreambooth_nora.py"
CLIP_SCORE = "evaluation/clip_score.py"
FIDELITY = "evaluation/fidelity.py"
FEWSHOT = "training/clip_fewshot.py"
LLAMA = "training/llama_commonsense.py"
TRAINERS = {"instance_dir": TRAIN, "shots": FEWSHOT, "cutoff": LLAMA}
"""Each trainer by an option that its runs alone have."""
COMMONSENSE = "evaluation/commonsense.py"


def script_path(name: str) -> Path:
    """A script of the checkout, or its copy inside an installed wheel.

    Args:
        name: Path from the project's top, such as "training/dreambooth_nora.py".

    Raises:
        StudioError: it is in neither.
    """
    package = Path(__file__).parents[1]
    for top in (package.parent, package / "_bundle"):
        if (top / name).is_file():
            return top / name
    raise StudioError(f"expected {name} beside the package; it is missing. Reinstall nora-studio.")


def script_command(name: str, arguments: Sequence[str]) -> list[str]:
    """The command that runs a script in this Python."""
    return [sys.executable, str(script_path(name)), *arguments]


def as_flags(words: Sequence[str]) -> list[str]:
    """Write "steps=100" or "unet.no-train" as a command line's flags."""
    flags = []
    for word in words:
        name, equals, value = word.partition("=")
        flags += [f"--{name}", value] if equals else [f"--{name}"]
    return flags


def run_script(name: str, arguments: Sequence[str]) -> int:
    """Run a script in the foreground, its output on ours; give back its exit status.

    Ctrl-C reaches the script too, which then saves and stops; we wait for it. A SIGTERM reaches
    us alone and is passed on; a closed terminal tells both, and twice would be "at once". If we are
    killed, the system stops the script (on Linux).
    """
    process = subprocess.Popen(script_command(name, arguments), preexec_fn=ending_with_us())
    before: dict[int, Any] = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    }
    if SIGHUP is not None:
        before[SIGHUP] = signal.signal(SIGHUP, lambda *_: None)
    try:
        while True:
            try:
                status = process.wait()
                return status if status >= 0 else 128 - status  # as a shell tells a signal
            except KeyboardInterrupt:
                continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
