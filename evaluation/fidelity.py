"""Find the checkpoint and the strength to use: fidelity to the subject against the prompt.

    python evaluation/fidelity.py --adapters runs/my-mug-nora runs/my-mug-lora \\
        --references photos/my-mug --strengths 0.6 0.8 1 --out fidelity/my-mug

Generates images with the last checkpoints of every run at every strength, from the same starting
noise, and measures CLIP-I (or DINO) with real photos against CLIP-T, with 95% intervals over
prompts of one subject. Marks the points that no other point beats and recommends one
(`nora_studio.scoring.fidelity.recommend`). Images that exist already with the same recipe are used
again. Writes fidelity.json (after every point), fidelity.md, fidelity.png and pictures/.
Exit status: 0 done, 2 bad input.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.judges import require_judge
from nora_studio.options.precision import choose_dtype
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.photos.prompts import in_places, read_prompts
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.runs.scripts import GENERATING
from nora_studio.scoring.compare import GenerationSettings, adapter_columns
from nora_studio.scoring.dino import load_dino
from nora_studio.scoring.fidelity import RESULT, Fidelity, as_json, with_recommendations
from nora_studio.scoring.fidelity_judging import (
    Checkpoint,
    Judges,
    find_checkpoints,
    measure,
    plan_points,
    units_of,
)
from nora_studio.scoring.fidelity_plot import plot_fidelity
from nora_studio.scoring.fidelity_text import advice, fidelity_table, judges_of
from nora_studio.scoring.prompt_warnings import generation_warnings, judge_warnings
from nora_studio.scoring.results import as_text, markdown_table
from nora_studio.scoring.scores import load_scorer
from nora_studio.scoring.statistics import coverage
from nora_studio.sdxl.models import load_sdxl, native_resolution

PLACES = 4
"""Prompts made from a run's own prompt, each in another place, if none are given."""


@dataclass(frozen=True)
class FidelityOptions:
    """Measure checkpoints at several strengths, and recommend one."""

    adapters: tuple[Path, ...]
    """Runs, with their checkpoints, or single adapters; all of one base."""
    references: Path
    """Folder of real photos of the subject, two or more."""
    strengths: tuple[float, ...] = (0.6, 0.8, 1.0)
    """Factors on the adapter's change: 1 is as trained, 0 is the base."""
    checkpoints: int = 2
    """How many of a run's last checkpoints to measure, in addition to its final adapter."""
    prompts: tuple[str, ...] = ()
    """Prompts with [V], or one file of them. None given: the run's own prompt in four places."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the starting noise: one image of every prompt for each."""
    model: str | None = None
    """Base: "embedded", a diffusers directory or a Hub name. None: the adapters' own."""
    clip: str | None = None
    """Judge: "embedded", an open_clip folder, hf-hub:owner/name, or a name such as
    ViT-B-32:openai. None: the embedded one, if the base is; other bases need one."""
    dino: str | None = None
    """Judge of the subject instead of CLIP-I: a folder or Hub name, facebook/dino-vits16."""
    out: Path = Path("fidelity")
    """Folder for results and images."""
    steps: int = 15
    """Denoising steps per image."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 or below there is no guidance."""
    size: int | None = None
    """Side of the images in pixels, a multiple of 8. None: the model's own."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the base. auto: bf16 on a GPU, fp32 on a CPU."""


def main() -> int:
    """Measure every point, write the results, and return the exit status."""
    options = parse_command(FidelityOptions, description=__doc__)
    # Every input that can be checked is checked before the first model loads.
    check_numbers(options)
    checkpoints = [
        c for path in options.adapters for c in find_checkpoints(path, options.checkpoints)
    ]
    model = options.model or common_base(options, checkpoints)
    judge = require_judge(model, options.clip)
    prompts = read_prompts(options.prompts or in_places(checkpoints[-1].card.prompt, PLACES))
    photos = [open_photo(file) for file in list_photos(options.references, "--references")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = load_scorer(judge, device)
    dino = None if options.dino is None else load_dino(options.dino, device)
    judges = Judges.prepare(scorer, dino, photos, prompts)
    pipe = load_sdxl(model, choose_dtype(options.precision, device), device)
    size = options.size or native_resolution(pipe)
    drawing = GenerationSettings(
        model=model,
        prompts=tuple(prompts),
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        size=size,
    )
    columns = [one for c in checkpoints for one in adapter_columns([c.adapter], with_base=False)]
    for line in (*generation_warnings(pipe, columns, drawing), *judge_warnings(scorer, prompts)):
        print(line, file=sys.stderr)
    plan = list(plan_points(checkpoints, options.strengths))
    options.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=(len(plan) + 1) * len(drawing.pairs), desc=GENERATING, unit="image") as bar:
        result = Fidelity(
            planned=len(plan),
            prompts=drawing.prompts,
            seeds=drawing.seeds,
            photos=str(options.references),
            photo_count=len(photos),
            clip=scorer.name,
            dino=options.dino,
            base=measure(pipe, judges, None, drawing, options.out, bar.update),
            real=judges.photo_scores(units_of(drawing)),
            drawing={n: getattr(drawing, n) for n in ("model", "steps", "guidance", "size")},
        )
        write_text(options.out / RESULT, as_json(result))
        for checkpoint, strength in plan:
            now = replace(drawing, strength=strength)
            point = measure(pipe, judges, checkpoint, now, options.out, bar.update)
            result = with_recommendations(replace(result, points=(*result.points, point)))
            write_text(options.out / RESULT, as_json(result))
    report(result, options.out)
    return 0


def check_numbers(options: FidelityOptions) -> None:
    """Refuse seeds, strengths and names that repeat, and numbers that are out of range."""
    for name, values in (("seeds", options.seeds), ("strengths", options.strengths)):
        if not values or len(set(values)) < len(values):
            raise StudioError(f"--{name}: expected different numbers; got {values}.")
    if not all(0 < strength <= 4 for strength in options.strengths):
        raise StudioError(
            f"--strengths: expected numbers above 0 and up to 4; got {options.strengths}. Leave 0 "
            "out: the base is always measured."
        )
    if options.checkpoints < 0:
        raise StudioError(f"--checkpoints: expected 0 or more; got {options.checkpoints}.")
    names = [path.resolve().name for path in options.adapters]
    if not names or len(set(names)) < len(names):
        raise StudioError(
            f"--adapters: expected one or more runs or adapters, all with different names; got "
            f"{', '.join(names) or 'none'}."
        )


def common_base(options: FidelityOptions, checkpoints: Sequence[Checkpoint]) -> str:
    """Return the base that all checkpoints were trained on.

    Raises:
        StudioError: they were trained on different bases, or name none.
    """
    models = sorted({checkpoint.card.model for checkpoint in checkpoints})
    if len(models) > 1 or not models[0]:
        raise StudioError(
            f"--adapters: expected adapters that name the same base; got {models}. Measure the "
            "adapters of each base by themselves, or name the base with --model."
        )
    return models[0]


def report(result: Fidelity, folder: Path) -> None:
    """Write the page and the plot; print the table and the advice."""
    table = fidelity_table(result)
    runs = list(dict.fromkeys(point.run for point in result.points))
    advices = {run: advice(result, run) for run in runs}
    title = "Subject against prompt"
    lines = [f"# {title}", *(f"**{run}** {text}" for run, text in advices.items())]
    covered = coverage(len(result.prompts), len(result.seeds))
    judges = f"Judged by {judges_of(result)}."
    lines += [markdown_table(table), judges, covered, "![Every point](fidelity.png)"]
    write_text(folder / "fidelity.md", "\n\n".join(lines) + "\n")
    plot_fidelity(result, folder / "fidelity.png")
    print(as_text({title: table}))
    print(covered)
    for run, text in advices.items():
        print(f"{run}: {text}")
    print(judges)
    print(f"Written to {folder}: {RESULT}, fidelity.md, fidelity.png, pictures/")


if __name__ == "__main__":
    sys.exit(run_entry(main))
