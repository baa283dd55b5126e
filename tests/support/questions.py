"""The language trainer at a size for tests."""

from pathlib import Path

from support.places import TOP
from support.trainer import run_trainer

SCRIPT = TOP / "training" / "llama_commonsense.py"


STEPS = 6


SIZES = ("--decoder.rank", "2", "--decoder.learning-rate", "0.01")


def run_script(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the script, run here."""
    outcome = run_trainer(*arguments, script=SCRIPT)
    return outcome.status, outcome.out, outcome.err


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    """A command line for a run of seconds."""
    return [
        "--model", str(model), "--data", str(data), "--output-dir", str(out), "--name", "q",
        "--steps", str(STEPS), "--batch-size", "4", "--validation", "8", "--evaluate-every", "3",
        "--checkpoint-every", "2", "--log-every", "2", "--warmup-steps", "1", "--no-cache",
        *SIZES, *more,
    ]  # fmt: skip
