"""Kill the trainer (SIGKILL) at many moments and check that nothing is lost or half written.

    python evaluation/kill_test.py --kills 50

After each kill, the training is continued with `--resume`, or with the same command if no run
existed yet. It must end with status 0 and with the same adapters, checkpoints, losses and samples
as a training that was never killed, and no half-written file may remain. Most trainings are forks
of a process that has imported everything; `--fresh` of them are new processes. Takes about 15
minutes on two cores. Exit status: 0 if all trials succeed, 1 if not.
"""

import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from nora_studio.errors import StudioError
from nora_studio.mini.assets import embedded
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.runs.launching import ForkServer, Start, start_in_new_process
from nora_studio.trainer.trials import ACTS, KillResult, Training, differences, kill_once

FLAGS = (
    "--unet.rank 2 --text-encoder.no-train --text-encoder-2.no-train --dropout 0.1 "
    "--batch-size 2 --warmup-steps 1 --log-every 1 --checkpoint-every 2 --keep-checkpoints 1 "
    "--sample-every 2 --sample-steps 2 --evaluate-every 3 --prior-weight 0.5 --class-pictures 2"
)


@dataclass(frozen=True)
class KillOptions:
    """Kill the trainer at many moments, continue, and compare with a training never killed.

    Trains NoRA and LoRA as twins on a small scale, with samples, validation, dropout and prior
    preservation, so that files and random numbers of every kind take part.
    """

    kills: int = 50
    """Number of trials."""
    fresh: int = 3
    """How many of the trials start new processes instead of forks."""
    workers: int = 2
    """Trainings at the same time."""
    steps: int = 6
    """Steps of each training."""
    seed: int = 0
    """Seed of the moments at which to kill."""
    model: str = "embedded"
    """Base model."""
    photos: Path | None = None
    """Folder of photos. None: a shipped subject."""
    flags: str = ""
    """Further flags of the trainer: --flags="--resolution 64"."""
    out: Path | None = None
    """JSON file for the results. None: no file."""


def main() -> int:
    """Run all trials, print the table, and return the exit status."""
    options = parse_command(KillOptions)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nora-studio-kills-") as scratch:
        folder = Path(scratch)
        forks = ForkServer().start
        whole = train_whole(options, folder / "whole", forks)
        seconds = train_whole_again(options, folder, forks, whole)
        print(f"A training that is not killed takes {seconds:.1f} s.", flush=True)

        def trial(number: int) -> KillResult:
            start: Start = start_in_new_process if number < options.fresh else forks
            one = training(options, folder / str(number))
            # New processes import first, so their moments are watched for, not timed.
            act = ACTS[(number + 3) % len(ACTS)]
            seed = options.seed * 1000 + number
            found = kill_once(act, one, whole, seconds, start, seed)
            print(f"{number:3} {found.hit:15} {'; '.join(found.problems) or 'good'}", flush=True)
            if not found.problems:
                shutil.rmtree(one.folder)
            return found

        with ThreadPoolExecutor(options.workers) as pool:
            trials = list(pool.map(trial, range(options.kills)))
    return report(options, trials, time.monotonic() - began)


def training(options: KillOptions, folder: Path) -> Training:
    """Return the training of one trial, in a folder of its own."""
    photos = options.photos or embedded("subjects") / "scarf-dog" / "photos"
    flags = ["--instance-dir", str(photos), "--prompt", "a photo of a [V] dog"]
    flags += ["--model", options.model, *FLAGS.split(), *options.flags.split()]
    return Training(folder, "dog", ("nora", "lora"), options.steps, tuple(flags))


def train_whole(options: KillOptions, folder: Path, start: Start) -> Training:
    """Train without a kill.

    Raises:
        StudioError: the training failed.
    """
    whole = training(options, folder)
    status = whole.start(start).wait()
    if status:
        raise StudioError(f"the training failed without a kill: {whole.output()[-500:]}")
    return whole


def train_whole_again(
    options: KillOptions, folder: Path, start: Start, whole: Training
) -> float:  # seconds
    """Train without a kill once more, and return the seconds it takes.

    Raises:
        StudioError: the result differs from the first training's, so that a kill would not be the
            reason for a difference.
    """
    began = time.monotonic()
    again = train_whole(options, folder / "again", start)
    found = differences(whole, again)
    if found:
        raise StudioError(f"two trainings without a kill differ: {'; '.join(found)}")
    return time.monotonic() - began


def report(options: KillOptions, trials: list[KillResult], seconds: float) -> int:
    """Print the table, write the JSON file if asked for, and return the exit status."""
    hits, good = Counter(), Counter()
    for one in trials:
        hits[one.hit] += 1
        good[one.hit] += not one.problems
    print(f"\n{'killed during':16} {'times':>5} {'as if never killed':>19}")
    for act in [*ACTS, "nothing"]:
        if hits[act]:
            print(f"{act:16} {hits[act]:5} {good[act]:19}")
    print(f"{'all':16} {len(trials):5} {sum(good.values()):19}   in {seconds / 60:.1f} minutes")
    for one in trials:
        for problem in one.problems:
            print(f"killed during {one.hit}: {problem}")
    if options.out:
        rows = [asdict(one) for one in trials]
        write_text(options.out, json.dumps({"seconds": seconds, "trials": rows}, indent=1) + "\n")
    return 0 if sum(good.values()) == len(trials) else 1


if __name__ == "__main__":
    sys.exit(run_entry(main))
