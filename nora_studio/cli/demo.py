"""`nora-studio demo`: train twins on a shipped subject, generate, score and report."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.cli.commands.demo import Options
from nora_studio.mini.assets import EMBEDDED
from nora_studio.mini.shipped import ShippedSubject
from nora_studio.options.defaults import with_recommended
from nora_studio.options.judges import require_judge
from nora_studio.options.options_file import defaults_as_toml, parse_options, to_toml
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.runs.runs import Run
from nora_studio.runs.scripts import GENERATING, TRAIN, run_script
from nora_studio.scoring.compare import (
    GenerationSettings,
    ImageFiles,
    ScoreDifference,
    Scores,
    adapter_columns,
    find_differences,
    generate_missing,
    read_image,
    score_columns,
)
from nora_studio.scoring.report import (
    Commands,
    Comparison,
    Photos,
    Table,
    html_report,
    labelled_grid,
)
from nora_studio.scoring.results import as_text, result_tables
from nora_studio.scoring.scores import clip_i, clip_t, load_scorer
from nora_studio.scoring.statistics import coverage
from nora_studio.sdxl.models import load_sdxl

METHODS = ("lora", "nora")
IMAGE_SEED_OFFSET = 1000
"""Added to a training's seed for its images, here and in evaluation/sweep.py."""


@dataclass(frozen=True)
class Results:
    """Scores of the images, and the scores of real photos for comparison."""

    judge: str
    """Name of the CLIP that scored."""
    scores: Scores
    findings: list[ScoreDifference]
    real: tuple[float, float]
    """CLIP-T and CLIP-I of real photos of the subject, as a reference."""


def run(options: Options) -> int:
    """Run the demo, or continue an interrupted one; return the exit status."""
    start = time.monotonic()
    subject = ShippedSubject.load(options.subject)
    print(f"{subject.name}: {subject.description}")
    arguments = train_arguments(options, subject)
    status = _train(options, subject, arguments)
    if status:
        return status
    runs = [Run.open(_run_folder(options, subject, method)) for method in METHODS]
    columns = adapter_columns([run.folder for run in runs])
    settings = GenerationSettings(
        model=EMBEDDED,
        prompts=subject.prompts,
        seeds=(IMAGE_SEED_OFFSET + options.seed,),
        steps=options.inference_steps,
        guidance=options.guidance,
        size=open_adapter(runs[0].folder).card.resolution,
    )
    pipe = load_sdxl()
    with tqdm(total=len(columns) * len(settings.pairs), desc=GENERATING, unit="image") as bar:
        image_files = generate_missing(
            pipe, columns, settings, options.out / "pictures", lambda *_: bar.update()
        )
    scenes = [open_photo(file) for file in subject.scenes]
    scorer = load_scorer(require_judge(EMBEDDED))
    scores = score_columns(scorer, image_files, settings, scenes)
    photos = [open_photo(file) for file in list_photos(subject.folder / "photos")]
    real = (
        float(clip_t(scorer, scenes, subject.prompts).mean()),
        float(clip_i(scorer, photos, scenes).mean()),
    )
    results = Results(scorer.name, scores, list(find_differences(scores, settings)), real)
    _write_grid(options, subject, settings, image_files)
    print(_write_report(options, subject, settings, image_files, results, runs, arguments))
    print(f"Comparison: {options.out / 'comparison.png'}")
    print(f"Report:     {options.out / 'report.html'}")
    print(f"Took {time.monotonic() - start:.0f} s.")
    return 0


def train_arguments(options: Options, subject: ShippedSubject) -> list[str]:
    """Return the trainer's command line arguments for the demo."""
    arguments = [
        "--instance-dir", str(subject.folder / "photos"),
        "--prompt", f"a photo of a [V] {subject.class_word}",
        "--method", ",".join(METHODS),
        "--name", subject.name,
        "--output-dir", str(options.out / "runs"),
        "--seed", str(options.seed),
        "--sample-prompts", subject.prompts[0],
        "--sample-every", "0",
        "--sample-steps", str(options.inference_steps),
    ]  # fmt: skip
    return arguments + (["--steps", str(options.steps)] if options.steps else [])


def _run_folder(options: Options, subject: ShippedSubject, method: str) -> Path:
    return options.out / "runs" / f"{subject.name}-{method}"


def _train(options: Options, subject: ShippedSubject, arguments: list[str]) -> int:
    folders = [_run_folder(options, subject, method) for method in METHODS]
    runs = [Run(folder) for folder in folders]
    if all(run.read_status().get("state") == "finished" for run in runs):
        settings = to_toml(with_recommended(parse_options(arguments)))
        for run in runs:
            run.check_config(settings, defaults_as_toml())
        print(f"Both runs in {options.out / 'runs'} are finished; they are not trained again.")
        return 0
    is_started = any(run.exists for run in runs)
    return run_script(TRAIN, [*arguments, "--resume"] if is_started else arguments)


def _write_grid(
    options: Options, subject: ShippedSubject, settings: GenerationSettings, image_files: ImageFiles
) -> None:
    labelled_grid(
        [
            [read_image(image_files[label][pair]) for label in image_files]
            for pair in settings.pairs
        ],
        settings.prompts,
        list(image_files),
        options.out / "comparison.png",
        photos=[open_photo(file) for file in list_photos(subject.folder / "photos")],
    )


def _write_report(
    options: Options,
    subject: ShippedSubject,
    settings: GenerationSettings,
    image_files: ImageFiles,
    results: "Results",
    runs: list[Run],
    arguments: list[str],
) -> str:
    """Write the page and return its tables as text for the terminal."""
    tables = result_tables(settings, results.scores, results.findings)
    head, *rows = tables["Scores"]
    facts = {
        label: _training_facts(run, runs)
        for label, run in zip(list(image_files)[1:], runs, strict=True)
    }
    real = ["real photos", *(f"{value:.3f}" for value in results.real), "", ""]
    rows = [[*row, *facts.get(row[0], ("0", ""))] for row in rows] + [real]
    tables["Scores"] = [[*head, "Trained parameters", "Training"], *rows]
    photos = [open_photo(file) for file in list_photos(subject.folder / "photos")]
    generated = [
        (prompt, [read_image(image_files[label][prompt, seed]) for label in image_files])
        for prompt, seed in settings.pairs
    ]
    covered = coverage(len(settings.prompts), len(settings.seeds))
    notes = {
        "Scores": "CLIP-T: does the image show what its prompt says? CLIP-I: does it show this "
        "subject, compared with photos of it that were not used in training? The scores of real "
        f"photos are the reference. Judge: CLIP {results.judge}.",
        "Paired differences": "Same prompts, same starting noise. An interval that contains 0 "
        f"shows no difference. {covered}",
    }
    command = shlex.join(["nora-studio", "train", *arguments])
    html_report(
        options.out / "report.html",
        f"{subject.name}: NoRA and LoRA",
        [
            Photos("Training photos", photos, f"Five photos. {subject.description}"),
            Comparison(
                "Generated images",
                list(image_files),
                generated,
                "Every row starts from the same noise. The base was not trained on the subject.",
            ),
            *(
                Table(title, table[0], table[1:], notes.get(title, ""))
                for title, table in tables.items()
            ),
            Commands("Commands to reproduce this", ["nora-studio demo", command]),
        ],
        lead=f"{subject.description} Trained twice on five photos, generated in six new places.",
    )
    return as_text({t: tables[t] for t in tables if t != "By prompt"}) + f"\n{covered}\n"


def _training_facts(run: Run, runs: list[Run]) -> tuple[str, str]:
    """Return the trained parameters, and the steps with this twin's share of the seconds."""
    card = open_adapter(run.folder).card
    log = [row for row in run.read_log() if "seconds_per_step" in row]  # Not the row of the start.
    steps = [0, *(row["step"] for row in log)]
    seconds = sum(
        row["seconds_per_step"] * (row["step"] - n) for row, n in zip(log, steps, strict=False)
    )
    return f"{card.parameters:,}", f"{card.steps} steps, {seconds / len(runs):.0f} s"
