"""Which checkpoint, at which strength: fidelity to the subject against fidelity to the prompt.

    python evaluation/fidelity.py --adapters runs/my-mug-nora runs/my-mug-lora \\
        --references photos/my-mug --strengths 0.6 0.8 1 --out fidelity/my-mug

Draws the last checkpoints of every run at every strength, from the same starting noise; CLIP-I (or
DINO) with the real photos against CLIP-T, with 95% intervals over prompts of one subject; marks
what no other point beats and recommends one (`nora_studio.scoring.fidelity.recommend`). Pictures
that are there already with the same recipe are used again. Writes fidelity.json (anew after every
point), fidelity.md, fidelity.png and pictures/. Exit status: 0 done, 2 bad input.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from nora_studio.errors import StudioError, run_entry
from nora_studio.options.command_line import parse_command
from nora_studio.options.judges import require_judge
from nora_studio.options.precision import choose_dtype
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.photos.prompts import in_places, read_prompts
from nora_studio.runs.atomic import write_text
from nora_studio.scoring.compare import Drawing, enter_adapters
from nora_studio.scoring.dino import load_dino
from nora_studio.scoring.fidelity import RESULT, Fidelity, as_json, concluded
from nora_studio.scoring.fidelity_judging import (
    Checkpoint,
    Panel,
    find_checkpoints,
    measure,
    planned_points,
    units_of,
)
from nora_studio.scoring.fidelity_plot import plot_fidelity
from nora_studio.scoring.fidelity_words import advice, fidelity_table, judges_of
from nora_studio.scoring.prompt_warnings import drawing_warnings, judge_warnings
from nora_studio.scoring.results import as_text, markdown_table
from nora_studio.scoring.scores import load_scorer
from nora_studio.scoring.statistics import coverage
from nora_studio.sdxl.models import load_sdxl, native_resolution

PLACES_DRAWN = 4


@dataclass(frozen=True)
class FidelityOptions:
    """Measure checkpoints at several strengths, and recommend one."""

    adapters: tuple[Path, ...]
    """Runs, with their checkpoints; or single adapters. All of one base."""
    references: Path
    """Folder of real photos of the subject, two or more."""
    strengths: tuple[float, ...] = (0.6, 0.8, 1.0)
    """Factors on the adapter's change: 1 is as trained, 0 is the base."""
    checkpoints: int = 2
    """Of every run, so many of its last checkpoints beside the final adapter."""
    prompts: tuple[str, ...] = ()
    """Prompts with [V], or one file of them. None: the run's own prompt in four places."""
    seeds: tuple[int, ...] = (0,)
    """One picture of every prompt for each seed."""
    model: str | None = None
    """Base: "embedded", a diffusers directory or a Hub name. None: the adapters' own."""
    clip: str | None = None
    """Judge: "embedded", an open_clip folder, hf-hub:owner/name, or such as ViT-B-32:openai. None:
    the embedded one, on the embedded base; any other base needs one."""
    dino: str | None = None
    """Judge of the subject in CLIP-I's place: a folder or Hub name, facebook/dino-vits16."""
    out: Path = Path("fidelity")
    """Folder for results and pictures."""
    steps: int = 15
    """Denoising steps of a picture."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 or below there is none."""
    size: int | None = None
    """Side of the pictures in pixels, a multiple of 8. None: the model's own."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the base. auto: bf16 on a GPU, fp32 on a CPU."""


def main() -> int:
    options = parse_command(FidelityOptions, description=__doc__)
    # Every input that can be checked is checked before the first model loads.
    check_numbers(options)
    checkpoints = [
        c for path in options.adapters for c in find_checkpoints(path, options.checkpoints)
    ]
    model = options.model or common_base(options, checkpoints)
    judge = require_judge(model, options.clip)
    prompts = read_prompts(options.prompts or in_places(checkpoints[-1].card.prompt, PLACES_DRAWN))
    photos = [open_photo(file) for file in list_photos(options.references, "--references")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorer = load_scorer(judge, device)
    dino = None if options.dino is None else load_dino(options.dino, device)
    panel = Panel.seat(scorer, dino, photos, prompts)
    pipe = load_sdxl(model, choose_dtype(options.precision, device), device)
    size = options.size or native_resolution(pipe)
    drawing = Drawing(
        model=model,
        prompts=tuple(prompts),
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        size=size,
    )
    entrants = [one for c in checkpoints for one in enter_adapters([c.adapter], with_base=False)]
    for line in (*drawing_warnings(pipe, entrants, drawing), *judge_warnings(scorer, prompts)):
        print(line, file=sys.stderr)
    plan = list(planned_points(checkpoints, options.strengths))
    options.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=(len(plan) + 1) * len(drawing.pairs), desc="drawing", unit="picture") as bar:
        result = Fidelity(
            planned=len(plan),
            prompts=drawing.prompts,
            seeds=drawing.seeds,
            photos=str(options.references),
            photo_count=len(photos),
            clip=scorer.name,
            dino=options.dino,
            base=measure(pipe, panel, None, drawing, options.out, bar.update),
            real=panel.real(units_of(drawing)),
            drawing={n: getattr(drawing, n) for n in ("model", "steps", "guidance", "size")},
        )
        write_text(options.out / RESULT, as_json(result))
        for checkpoint, strength in plan:
            now = replace(drawing, strength=strength)
            point = measure(pipe, panel, checkpoint, now, options.out, bar.update)
            result = concluded(replace(result, points=(*result.points, point)))
            write_text(options.out / RESULT, as_json(result))
    tell(result, options.out)
    return 0


def check_numbers(options: FidelityOptions) -> None:
    for name, values in (("seeds", options.seeds), ("strengths", options.strengths)):
        if not values or len(set(values)) < len(values):
            raise StudioError(f"--{name}: expected different numbers; got {values}.")
    if not all(0 < strength <= 4 for strength in options.strengths):
        raise StudioError(
            f"--strengths: expected above 0 and up to 4; got {options.strengths}. The base, which "
            "is strength 0, is measured anyway."
        )
    if options.checkpoints < 0:
        raise StudioError(f"--checkpoints: expected 0 or more; got {options.checkpoints}.")
    names = [path.resolve().name for path in options.adapters]
    if not names or len(set(names)) < len(names):
        raise StudioError("--adapters: expected one or more, of different names.")


def common_base(options: FidelityOptions, checkpoints: Sequence[Checkpoint]) -> str:
    models = sorted({checkpoint.card.model for checkpoint in checkpoints})
    if len(models) > 1 or not models[0]:
        raise StudioError(
            f"--adapters: expected adapters that name one and the same base; got {models}. Measure "
            "those of each base by themselves, or name it with --model."
        )
    return models[0]


def tell(result: Fidelity, folder: Path) -> None:
    """Write the page and the plot, print the table and the advice."""
    table = fidelity_table(result)
    runs = list(dict.fromkeys(point.run for point in result.points))
    words = {run: advice(result, run) for run in runs}
    title = "Subject against prompt"
    lines = [f"# {title}", *(f"**{run}** {text}" for run, text in words.items())]
    covered = coverage(len(result.prompts), len(result.seeds))
    judged = f"Judged by {judges_of(result)}."
    lines += [markdown_table(table), judged, covered, "![Every point](fidelity.png)"]
    write_text(folder / "fidelity.md", "\n\n".join(lines) + "\n")
    plot_fidelity(result, folder / "fidelity.png")
    print(as_text({title: table}))
    print(covered)
    for run, text in words.items():
        print(f"{run}: {text}")
    print(judged)
    print(f"Written to {folder}: {RESULT}, fidelity.md, fidelity.png, pictures/")


if __name__ == "__main__":
    sys.exit(run_entry(main))
