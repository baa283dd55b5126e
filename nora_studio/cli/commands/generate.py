"""`nora-studio generate`: images of a base and adapters."""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """Generate images with a base and adapters: one PNG for each prompt, seed and adapter."""

    prompts: tuple[str, ...]
    """Prompts, or one text file with one prompt per line; [V] stands for the subject."""
    adapters: tuple[Path, ...] = ()
    """Run folders, adapter folders, checkpoints or adapter files. None given: the base alone."""
    model: str | None = None
    """Base model. None: the one the adapters were trained on."""
    out: Path = Path("outputs")
    """Folder for the images; each file holds the settings it was made with."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the starting noise: one image of every prompt for each."""
    steps: int = 25
    """Denoising steps per image."""
    guidance: float = 5.0
    """Classifier-free guidance scale; at 1 or below there is no guidance."""
    strength: float = 1.0
    """Factor on the adapters' change: 1 is as trained, 0 is the base."""
    weights: tuple[float, ...] = ()
    """One more factor for each adapter, in the same order. None given: 1 for each."""
    strengths: tuple[float, ...] = ()
    """Generate with every adapter at each of these strengths, each in its own column."""
    together: bool = False
    """Apply all adapters at once, in one column; their changes add up."""
    size: int | None = None
    """Side in pixels, a multiple of 8. None: as trained."""
    negative: str | None = None
    """Negative prompt: what guidance steers away from."""
    precision: str = "auto"
    """Number format of the base: fp32, bf16 or fp16; auto: bf16 on a GPU, fp32 on a CPU."""


def run(options: Options) -> int:
    """Generate the images; with the base alone if no adapter is given."""
    generate(options, with_base=not options.adapters)
    return 0


def generate(options: Options, with_base: bool):
    """Generate every image that does not exist yet, and print the files.

    Returns:
        The `GenerationSettings`, and the files by column label and (prompt, seed).

    Raises:
        StudioError: a prompt, an adapter or the base cannot be used.
    """
    # Imported here: `--help` and a wrong flag should respond at once.
    import torch
    from tqdm import tqdm

    from nora_studio.options.precision import choose_dtype
    from nora_studio.photos.prompts import read_prompts
    from nora_studio.runs.scripts import GENERATING
    from nora_studio.scoring.compare import GenerationSettings, adapter_columns, generate_missing
    from nora_studio.scoring.prompt_warnings import generation_warnings
    from nora_studio.sdxl.columns import base_of, training_resolution
    from nora_studio.sdxl.models import load_sdxl

    prompts = read_prompts(options.prompts)
    columns = adapter_columns(
        options.adapters,
        with_base,
        weights=options.weights,
        strengths=options.strengths,
        together=options.together,
    )
    model = base_of(columns, options.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load_sdxl(model, choose_dtype(options.precision, device), device)
    size = options.size or training_resolution(pipe, columns)
    settings = GenerationSettings(
        model=model,
        prompts=tuple(prompts),
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        size=size,
        negative=options.negative,
        strength=options.strength,
    )
    for line in generation_warnings(pipe, columns, settings):
        print(line, file=sys.stderr)
    with contextlib.closing(
        tqdm(total=len(columns) * len(settings.pairs), desc=GENERATING, unit="image")
    ) as bar:
        image_files = generate_missing(
            pipe, columns, settings, options.out, lambda *_: bar.update()
        )
    for files in image_files.values():
        for file in files.values():
            print(file)
    return settings, image_files
