"""Kill the trainer (SIGKILL) at many moments and see whether anything is ever lost or half written.

    python evaluation/kill_test.py --kills 50

Each time, one command goes on: `--resume`, or the same command where no run had been made. It must
end with status 0 and with the very adapters, checkpoints, losses and samples of a training that was
never killed, and nothing half written may be left. Most trainings are forks of a process that has
imported everything; every real process in full counts too (--fresh). About 15 minutes on two cores.
Exit status: 0 if all went well, 1 if not.
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

from nora_studio.errors import StudioError, run_entry
from nora_studio.mini.assets import embedded
from nora_studio.options.command_line import parse_command
from nora_studio.runs.atomic import write_text
from nora_studio.runs.launching import ForkServer, Start, start_fresh
from nora_studio.trainer.trials import ACTS, Training, Trial, differences, kill_once

FLAGS = (
    "--unet.rank 2 --text-encoder.no-train --text-encoder-2.no-train --dropout 0.1 "
    "--batch-size 2 --warmup-steps 1 --log-every 1 --checkpoint-every 2 --keep-checkpoints 1 "
    "--sample-every 2 --sample-steps 2 --evaluate-every 3 --prior-weight 0.5 --class-pictures 2"
)


@dataclass(frozen=True)
class KillOptions:
    """Kill the trainer at many moments, go on, and compare with a training that was never killed.

    A small training of NoRA and LoRA as twins, with samples, measurements, dropout and prior
    preservation, so that all kinds of files and of random numbers are there.
    """

    kills: int = 50
    """How many times."""
    fresh: int = 3
    """How many of them as real new processes."""
    workers: int = 2
    """Trainings at the same time."""
    steps: int = 6
    """Of each training."""
    seed: int = 0
    """Of the moments."""
    model: str = "embedded"
    """Base model."""
    photos: Path | None = None
    """Folder of photos. None: a shipped subject."""
    flags: str = ""
    """More of the trainer's flags: --flags="--resolution 64"."""
    out: Path | None = None
    """JSON file for every trial. None: none."""


def main() -> int:
    options = parse_command(KillOptions)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nora-studio-kills-") as scratch:
        folder = Path(scratch)
        forks = ForkServer().start
        whole = train_whole(options, folder / "whole", forks)
        seconds = train_whole_again(options, folder, forks, whole)
        print(f"A training that is not killed takes {seconds:.1f} s.", flush=True)

        def trial(number: int) -> Trial:
            start: Start = start_fresh if number < options.fresh else forks
            one = training(options, folder / str(number))
            # Fresh processes import first: their moments are watched for, not timed.
            act = ACTS[(number + 3) % len(ACTS)]
            seed = options.seed * 1000 + number
            found = kill_once(act, one, whole, seconds, start, seed)
            print(f"{number:3} {found.hit:15} {'; '.join(found.problems) or 'good'}", flush=True)
            if not found.problems:
                shutil.rmtree(one.folder)
            return found

        with ThreadPoolExecutor(options.workers) as pool:
            trials = list(pool.map(trial, range(options.kills)))
    return tell(options, trials, time.monotonic() - began)


def training(options: KillOptions, folder: Path) -> Training:
    photos = options.photos or embedded("subjects") / "scarf-dog" / "photos"
    flags = ["--instance-dir", str(photos), "--prompt", "a photo of a [V] dog"]
    flags += ["--model", options.model, *FLAGS.split(), *options.flags.split()]
    return Training(folder, "dog", ("nora", "lora"), options.steps, tuple(flags))


def train_whole(options: KillOptions, folder: Path, start: Start) -> Training:
    """Train without a kill.

    Raises:
        StudioError: not even that went well.
    """
    whole = training(options, folder)
    status = whole.start(start).wait()
    if status:
        raise StudioError(f"the training failed without a kill: {whole.told()[-500:]}")
    return whole


def train_whole_again(
    options: KillOptions, folder: Path, start: Start, whole: Training
) -> float:  # seconds
    """Train without a kill once more: what two such trainings differ in, no kill explains."""
    began = time.monotonic()
    again = train_whole(options, folder / "again", start)
    apart = differences(whole, again)
    if apart:
        raise StudioError(f"two trainings without a kill differ: {'; '.join(apart)}")
    return time.monotonic() - began


def tell(options: KillOptions, trials: list[Trial], seconds: float) -> int:
    """Print the table; give back the exit status."""
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
