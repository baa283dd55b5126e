"""Score adapters: does an image show its prompt (CLIP-T), and the subject (CLIP-I, DINO)?

    python evaluation/clip_score.py --adapters runs/my-mug-nora runs/my-mug-lora \\
        --prompts "a photo of a [V] mug in the snow" "a photo of a [V] mug on the beach" \\
        --references photos/my-mug --seeds 0 1 2 --out scores/my-mug

Images of every adapter, and of the base, are generated for the same prompts from the same starting
noise, so that scores are compared pair by pair, with 95% intervals over prompts (over seeds if
there is one prompt). They cover prompts and seeds of one subject. Images that exist already with
the same recipe are used again. Writes scores.json, scores.md, grid.png and pictures/.
Exit status: 0 done, 2 bad input.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from nora_studio import __version__
from nora_studio.errors import StudioError
from nora_studio.options.command_line import parse_command
from nora_studio.options.judges import require_judge
from nora_studio.options.precision import choose_dtype
from nora_studio.photos.images import list_photos, open_photo
from nora_studio.photos.prompts import read_prompts
from nora_studio.runs.atomic import write_text
from nora_studio.runs.entry import run_entry
from nora_studio.runs.scripts import GENERATING
from nora_studio.scoring.compare import (
    ComparisonColumn,
    GenerationSettings,
    adapter_columns,
    find_differences,
    generate_missing,
    read_image,
    score_columns,
)
from nora_studio.scoring.dino import load_dino
from nora_studio.scoring.prompt_warnings import generation_warnings, judge_warnings
from nora_studio.scoring.report import labelled_grid
from nora_studio.scoring.results import as_markdown, as_text, describe_results, result_tables
from nora_studio.scoring.scores import load_scorer
from nora_studio.scoring.statistics import coverage
from nora_studio.sdxl.models import load_sdxl, native_resolution


@dataclass(frozen=True)
class ScoreOptions:
    """Score adapters and their base with CLIP, and compare them pair by pair."""

    adapters: tuple[Path, ...]
    """Run folders, adapter folders or checkpoints, all of one base."""
    prompts: tuple[str, ...]
    """Prompts with [V] for the subject, or one file: a .txt, one per line, or a subject.json."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the starting noise: one image of every prompt for each."""
    references: Path | None = None
    """Folder of real photos of the subject, not used in training. None: no CLIP-I or DINO."""
    model: str | None = None
    """Base: "embedded", a diffusers directory or a Hub name. None: the adapters' own."""
    clip: str | None = None
    """Judge: "embedded", an open_clip folder, hf-hub:owner/name, or a name such as
    ViT-B-32:openai. None: the embedded one, if the base is; other bases need one."""
    dino: str | None = None
    """Second judge of the subject: a folder or Hub name, facebook/dino-vits16 in DreamBooth."""
    out: Path = Path("scores")
    """Folder for results and images."""
    base: bool = True
    """Also generate with the base alone and score it."""
    steps: int = 25
    """Denoising steps per image."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 or below there is no guidance."""
    strength: float = 1.0
    """Factor on the adapters' change: 1 is as trained, 0 is the base."""
    size: int | None = None
    """Side of the images in pixels, a multiple of 8. None: the model's own."""
    negative: str | None = None
    """Negative prompt: what guidance steers away from."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the base. auto: bf16 on a GPU, fp32 on a CPU."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Device to generate and score on. auto: the GPU if there is one."""


def main() -> int:
    """Score the adapters, write the results, and return the exit status."""
    options = parse_command(ScoreOptions, description=__doc__)
    # Every input that can be checked is checked before the first model loads.
    prompts = read_prompts(options.prompts)
    columns = adapter_columns(options.adapters, with_base=options.base)
    model = options.model or common_model(columns)
    judge = require_judge(model, options.clip)
    if not options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise StudioError(f"--seeds: expected different whole numbers; got {options.seeds}.")
    references = None
    if options.references is not None:
        references = [open_photo(file) for file in list_photos(options.references, "--references")]
    if options.dino is not None and not references:
        raise StudioError(
            "--dino: it compares images with real photos. Name a folder of them with --references."
        )
    device = choose_device(options.device)
    scorer = load_scorer(judge, device)
    dino = None if options.dino is None else load_dino(options.dino, device)

    pipe = load_sdxl(model, choose_dtype(options.precision, device), device)
    settings = GenerationSettings(
        model=model,
        prompts=tuple(prompts),
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        size=options.size or native_resolution(pipe),
        negative=options.negative,
        strength=options.strength,
    )
    for line in (*generation_warnings(pipe, columns, settings), *judge_warnings(scorer, prompts)):
        print(line, file=sys.stderr)
    with tqdm(total=len(columns) * len(settings.pairs), desc=GENERATING, unit="image") as bar:
        image_files = generate_missing(
            pipe, columns, settings, options.out / "pictures", lambda *_: bar.update()
        )
    scores = score_columns(scorer, image_files, settings, references, dino)
    findings = list(find_differences(scores, settings))

    labelled_grid(
        [
            [read_image(files[prompt, settings.seeds[0]]) for files in image_files.values()]
            for prompt in settings.prompts
        ],
        settings.prompts,
        list(image_files),
        options.out / "grid.png",
        photos=references[:5] if references else (),
    )
    facts = {
        "version": __version__,
        "clip": scorer.name,
        "dino": options.dino,
        "precision": str(pipe.unet.dtype).removeprefix("torch."),
        "references": str(options.references) if references else None,
    }
    result = facts | describe_results(columns, settings, scores, findings)
    write_text(options.out / "scores.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    judges = f"CLIP {scorer.name}" + (f", DINO {dino.name}" if dino else "")
    tables = result_tables(settings, scores, findings)
    write_text(options.out / "scores.md", as_markdown(tables, settings, judges))
    print(as_text(tables))
    print(coverage(len(settings.prompts), len(settings.seeds)))
    print(f"Judged by {judges}.")
    print(f"Written to {options.out}: scores.json, scores.md, grid.png, pictures/")
    return 0


def choose_device(asked: str) -> str:
    """Return "cuda" or "cpu": the device asked for, or for "auto" the best available."""
    available = "cuda" if torch.cuda.is_available() else "cpu"
    if asked == "cuda" and available == "cpu":
        raise StudioError("--device: expected cpu, since torch finds no GPU; got cuda.")
    return available if asked == "auto" else asked


def common_model(columns: Sequence[ComparisonColumn]) -> str:
    """Return the base that all adapters were trained on.

    Raises:
        StudioError: there is no adapter, or they were trained on different bases.
    """
    models = sorted({column.card.model for column in columns if column.card is not None})
    if not models:
        raise StudioError("--adapters: expected at least one run or adapter folder; got none.")
    if len(models) > 1:
        raise StudioError(
            f"--adapters: expected adapters of one base; got adapters of {', '.join(models)}. "
            "Score the adapters of each base by themselves."
        )
    return models[0]


if __name__ == "__main__":
    sys.exit(run_entry(main))
