"""Train one method's candidate settings on shipped subjects, score each, and rank them.

    python evaluation/sweep.py --method nora --out runs/sweep \\
        --candidates "unet.learning-rate=3e-3" "unet.learning-rate=1e-2 steps=300"

A candidate is a set of the trainer's options. It is trained on every subject with every seed;
CLIP-I compares with photos of the subject, unseen in training, in the places that the prompts name.
Writes sweep.json and sweep.md, with intervals over subjects and every paired difference. Runs that
are finished already are used again. `--stored nora.json lora.json` puts earlier sweeps of the same
subjects and seeds side by side in one sweep.md, without training.
"""

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nora_studio.cli.demo import IMAGE_SEED_OFFSET
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.mini.shipped import ShippedSubject
from nora_studio.options.command_line import parse_command
from nora_studio.options.defaults import with_recommended
from nora_studio.options.judges import require_judge
from nora_studio.options.options_file import parse_options, to_toml
from nora_studio.options.part_settings import part_settings
from nora_studio.photos.images import open_photo
from nora_studio.runs.atomic import write_text
from nora_studio.runs.child_processes import stop_with_parent
from nora_studio.runs.entry import run_entry
from nora_studio.runs.runs import CONFIG, Run
from nora_studio.runs.scripts import TRAIN, as_flags, script_command
from nora_studio.scoring.compare import (
    GenerationSettings,
    adapter_columns,
    generate_missing,
    score_columns,
)
from nora_studio.scoring.scores import load_scorer
from nora_studio.scoring.sweep_table import RECORD, page, results_of
from nora_studio.scoring.tables import (
    check_each_once,
    check_settings,
    check_stored,
    read_record,
    write_page,
)
from nora_studio.sdxl.models import load_sdxl, native_resolution


@dataclass(frozen=True)
class SweepOptions:
    """Train candidate settings on shipped subjects, score each, and rank them."""

    method: str = "nora"
    """Adapter method."""
    candidates: tuple[str, ...] = ()
    """Sets of the trainer's options, such as "steps=300 unet.no-train"; "" is its defaults."""
    subjects: tuple[str, ...] = ("sunrise-mug", "zigzag-robot", "tiger-cat", "star-backpack")
    """Names of folders in assets/subjects."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of training and of the images."""
    out: Path = Path("runs/sweep")
    """Folder for runs, images and results."""
    jobs: int = 1
    """Trainings at the same time."""
    inference_steps: int = 20
    """Denoising steps per image."""
    stored: tuple[Path, ...] = ()
    """Files of earlier sweeps, to put side by side under their names; nothing is trained."""


@dataclass(frozen=True)
class SweepRun:
    """The training of one candidate on one subject with one seed."""

    candidate: int
    subject: str
    seed: int

    def folder(self, options: SweepOptions) -> Path:
        """Return the run's folder."""
        name = f"{self.subject}-{self.candidate:02d}-{self.seed}-{options.method}"
        return options.out / "runs" / name


def main() -> int:
    """Train and score every candidate, write the table, and return the exit status."""
    options = parse_command(SweepOptions, description=__doc__)
    if options.stored:
        check_stored(options)
        check_each_once("--stored", [file.stem for file in options.stored])
        records = {file.stem: read_record(file, RECORD) for file in options.stored}
        return write_page(options.out / "sweep.md", page(records))
    for name in ("candidates", "subjects", "seeds"):
        check_each_once(f"--{name}", getattr(options, name))
    rates = [rates_of(options, number) for number in range(len(options.candidates))]
    runs = [
        SweepRun(candidate, subject, seed)
        for candidate in range(len(options.candidates))
        for subject in options.subjects
        for seed in options.seeds
    ]
    with ThreadPoolExecutor(options.jobs) as pool, tqdm(total=len(runs), desc="Training") as bar:
        for _ in pool.map(lambda run: train(options, run), runs):
            bar.update()
    judge = require_judge(EMBEDDED)
    rows = score(options, runs, judge)
    results = results_of(rows, options.candidates, rates)
    record = {"method": options.method, "clip": judge, "results": results, "trials": rows}
    write_text(options.out / "sweep.json", json.dumps(record, indent=1) + "\n")
    return write_page(options.out / "sweep.md", page({options.method: record}))


def rates_of(options: SweepOptions, candidate: int) -> dict[str, float]:
    """Return a candidate's learning rate of each part, as given or as recommended."""
    flags = arguments_of(options, SweepRun(candidate, options.subjects[0], options.seeds[0]))
    asked = with_recommended(parse_options(flags))
    settings = part_settings(asked, options.method)
    return {part: values.learning_rate for part, values in settings.items()}


def arguments_of(options: SweepOptions, sweep_run: SweepRun) -> list[str]:
    """Return the trainer's command line arguments for one run."""
    subject, folder = ShippedSubject.load(sweep_run.subject), sweep_run.folder(options)
    return [
        "--instance-dir", str(subject.folder / "photos"),
        "--prompt", f"a photo of a [V] {subject.class_word}",
        "--method", options.method,
        "--name", folder.name.removesuffix(f"-{options.method}"),
        "--output-dir", str(folder.parent),
        "--seed", str(sweep_run.seed),
        "--sample-every", "0",
        *as_flags(options.candidates[sweep_run.candidate].split()),
    ]  # fmt: skip


def train(options: SweepOptions, sweep_run: SweepRun) -> None:
    """Train one run, unless it is finished already; refuse a finished one of other settings."""
    folder, arguments = sweep_run.folder(options), arguments_of(options, sweep_run)
    run = Run(folder)
    if run.read_status().get("state") == "finished":
        # Otherwise figures of other settings would be listed under this candidate's options.
        began = to_toml(parse_options(["--config", str(folder / CONFIG)]))
        asked = to_toml(with_recommended(parse_options(arguments)))
        check_settings(folder, tomllib.loads(began), tomllib.loads(asked))
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.call(
            script_command(TRAIN, arguments),
            stdout=output,
            stderr=output,
            preexec_fn=stop_with_parent(),
        )
    if status:
        last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
        raise StudioError(
            f"the training of {folder.name} ended with exit status {status}: {' '.join(last)}"
        )


def score(options: SweepOptions, runs: list[SweepRun], judge: str) -> list[dict[str, Any]]:
    """Generate images with every run's adapter and return its mean scores, one row per run."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe, scorer = load_sdxl(device=device), load_scorer(judge, device)
    rows: list[dict[str, Any]] = []
    for run in tqdm(runs, desc="Scoring"):
        subject = ShippedSubject.load(run.subject)
        settings = GenerationSettings(
            model=EMBEDDED,
            prompts=subject.prompts,
            seeds=(IMAGE_SEED_OFFSET + run.seed,),
            steps=options.inference_steps,
            guidance=5.0,
            size=native_resolution(pipe),
        )
        columns = adapter_columns([run.folder(options)], with_base=False)
        image_files = generate_missing(pipe, columns, settings, run.folder(options) / "pictures")
        scenes = [open_photo(file) for file in subject.scenes]
        scores = score_columns(scorer, image_files, settings, scenes)
        means = {
            name: sum(v) / len(v) for name, (v,) in ((n, c.values()) for n, c in scores.items())
        }
        card = columns[0].card
        rows.append({**vars(run), **means, "parameters": card.parameters if card else 0})
    return rows


if __name__ == "__main__":
    sys.exit(run_entry(main))
