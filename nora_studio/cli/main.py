"""The `nora-studio` command: one word, then that command's own options."""

import contextlib
import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nora_studio import __version__
from nora_studio.cli.options import FILE_COMMANDS, run_file_command
from nora_studio.errors import StudioError, run_entry
from nora_studio.options.command_line import parse_command
from nora_studio.runs.scripts import CLIP_SCORE, FIDELITY, TRAIN, run_script


@dataclass(frozen=True)
class GenerateOptions:
    """Draw pictures with a base and adapters: one PNG for each prompt, seed and adapter."""

    prompts: tuple[str, ...]
    """Prompts, or one text file with a prompt a line; [V] stands for the subject."""
    adapters: tuple[Path, ...] = ()
    """Run folders, adapter folders or checkpoints. None: the base alone."""
    model: str | None = None
    """Base model. None: the one the adapters were trained on."""
    out: Path = Path("outputs")
    """Folder for the pictures; each carries its recipe."""
    seeds: tuple[int, ...] = (0,)
    """One picture of every prompt for each seed."""
    steps: int = 25
    """Denoising steps."""
    guidance: float = 5.0
    """Classifier-free guidance; at 1 or below there is none."""
    strength: float = 1.0
    """Factor on the adapters' change: 1 is as trained, 0 is the base."""
    weights: tuple[float, ...] = ()
    """Each adapter's own strength beside that, in the same order. None given: 1 for each."""
    strengths: tuple[float, ...] = ()
    """Draw every adapter at each of these strengths, as columns of their own."""
    together: bool = False
    """Put all adapters on at once, as one column; their changes add up."""
    size: int | None = None
    """Side in pixels, a multiple of 8. None: as trained."""
    negative: str | None = None
    """What guidance leads away from."""
    precision: str = "auto"
    """fp32, bf16 or fp16; auto: bf16 on a GPU, fp32 on a CPU."""


@dataclass(frozen=True)
class CompareOptions(GenerateOptions):
    """Draw base and adapters from the same starting noise, as a labelled grid (grid.png)."""

    out: Path = Path("comparison")
    """Folder for grid.png and the single pictures."""


def generate(options: GenerateOptions) -> int:
    _draw(options, with_base=not options.adapters)
    return 0


def compare(options: CompareOptions) -> int:
    from nora_studio.scoring.compare import open_picture
    from nora_studio.scoring.grid import labelled_grid

    if not options.adapters:
        raise StudioError("--adapters: expected at least one run or adapter to compare; got none.")
    drawing, pictures = _draw(options, with_base=True)
    many = len(drawing.seeds) > 1
    labelled_grid(
        [[open_picture(files[pair]) for files in pictures.values()] for pair in drawing.pairs],
        [f"{prompt} (seed {seed})" if many else prompt for prompt, seed in drawing.pairs],
        list(pictures),
        options.out / "grid.png",
    )
    print(options.out / "grid.png")
    return 0


def _draw(options: GenerateOptions, with_base: bool):
    # Imported here: `--help` and a wrong flag should answer at once.
    import torch

    from nora_studio.options.precision import choose_dtype
    from nora_studio.photos.prompts import read_prompts
    from nora_studio.scoring.compare import Drawing, draw_missing, enter_adapters
    from nora_studio.scoring.prompt_warnings import drawing_warnings
    from nora_studio.sdxl.entrants import base_of, trained_size
    from nora_studio.sdxl.models import load_sdxl

    prompts = read_prompts(options.prompts)
    entrants = enter_adapters(
        options.adapters,
        with_base,
        weights=options.weights,
        strengths=options.strengths,
        together=options.together,
    )
    model = base_of(entrants, options.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe = load_sdxl(model, choose_dtype(options.precision, device), device)
    size = options.size or trained_size(pipe, entrants)
    drawing = Drawing(
        model=model,
        prompts=tuple(prompts),
        seeds=options.seeds,
        steps=options.steps,
        guidance=options.guidance,
        size=size,
        negative=options.negative,
        strength=options.strength,
    )
    for line in drawing_warnings(pipe, entrants, drawing):
        print(line, file=sys.stderr)
    with contextlib.closing(
        tqdm(total=len(entrants) * len(drawing.pairs), desc="Drawing", unit="picture")
    ) as bar:
        pictures = draw_missing(pipe, entrants, drawing, options.out, lambda *_: bar.update())
    for files in pictures.values():
        for file in files.values():
            print(file)
    return drawing, pictures


def _command_generate(arguments: Sequence[str]) -> int:
    return generate(
        parse_command(GenerateOptions, prog="nora-studio generate", arguments=arguments)
    )


def _command_compare(arguments: Sequence[str]) -> int:
    return compare(parse_command(CompareOptions, prog="nora-studio compare", arguments=arguments))


def _command_draw_server(arguments: Sequence[str]) -> int:
    from nora_studio.app.server import drawing_server

    return drawing_server.run(arguments)


def _command_demo(arguments: Sequence[str]) -> int:
    from nora_studio.cli.demo import DemoOptions, run_demo

    return run_demo(parse_command(DemoOptions, prog="nora-studio demo", arguments=arguments))


def _command_train(arguments: Sequence[str]) -> int:
    return run_script(TRAIN, arguments)


def _command_check_photos(arguments: Sequence[str]) -> int:
    from nora_studio.cli import check_photos

    return check_photos.run(arguments)


def _command_audit_resume(arguments: Sequence[str]) -> int:
    from nora_studio.cli import audit_resume

    return audit_resume.run(arguments)


def _command_score(arguments: Sequence[str]) -> int:
    return run_script(CLIP_SCORE, arguments)


def _command_fidelity(arguments: Sequence[str]) -> int:
    return run_script(FIDELITY, arguments)


def _command_methods(arguments: Sequence[str]) -> int:
    from nora_studio.cli import methods

    return methods.run(arguments)


def _command_params(arguments: Sequence[str]) -> int:
    from nora_studio.cli import params

    return params.run(arguments)


def _command_runs(arguments: Sequence[str]) -> int:
    from nora_studio.cli import runs

    return runs.run(arguments)


def _command_ui(arguments: Sequence[str]) -> int:
    from nora_studio.app import serve as server

    return server.run(arguments)


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "demo": (_command_demo, "train NoRA and LoRA on a shipped subject and show what each draws"),
    "ui": (_command_ui, "open the studio in a browser: train, watch, compare"),
    "train": (_command_train, "personalise SDXL from a folder of photos (the DreamBooth trainer)"),
    "runs": (_command_runs, "list, show, compare, delete and continue runs"),
    "check-photos": (_command_check_photos, "tell what is wrong with a folder of photos"),
    "generate": (_command_generate, "draw prompts with a base and adapters"),
    "compare": (_command_compare, "draw base and adapters side by side from the same noise"),
    "draw-server": (
        _command_draw_server,
        "draw requests that come as JSON lines, on a warm base",
    ),
    "audit-resume": (_command_audit_resume, "prove that a stopped training resumes exactly"),
    "methods": (_command_methods, "list every adapter method"),
    "params": (_command_params, "count what an adapter trains on a model, from shapes alone"),
    "score": (_command_score, "CLIP-T, CLIP-I and DINO of adapters, with paired differences"),
    "fidelity": (_command_fidelity, "which checkpoint at which strength: subject against prompt"),
    **{word: (partial(run_file_command, word), line) for word, (_, line) in FILE_COMMANDS.items()},
}


def main() -> int:
    """Entry point of the console command."""
    return run_entry(_dispatch)


def _dispatch() -> int:
    word, *arguments = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help"):
        print("usage: nora-studio COMMAND [options]\n")
        for name, (_, line) in COMMANDS.items():
            print(f"  {name:<12} {line}")
        print("\n`nora-studio COMMAND --help` lists a command's options.")
        return 0
    if word == "--version":
        print(f"nora-studio {__version__}")
        return 0
    if word not in COMMANDS:
        close = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise StudioError(f"expected a command ({', '.join(COMMANDS)}); got {word!r}.{hint}")
    return COMMANDS[word][0](arguments)
