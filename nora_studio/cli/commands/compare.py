"""`nora-studio compare`: one grid of a base and adapters, from the same starting noise."""

from dataclasses import dataclass
from pathlib import Path

from nora_studio.cli.commands import generate
from nora_studio.errors import StudioError


@dataclass(frozen=True)
class Options(generate.Options):
    """Generate with base and adapters from the same noise, and write a labelled grid (grid.png)."""

    out: Path = Path("comparison")
    """Folder for grid.png and the single images."""


def run(options: Options) -> int:
    """Generate what is missing and write the grid."""
    # Imported here: `--help` and a wrong flag should respond at once.
    from nora_studio.scoring.compare import read_image
    from nora_studio.scoring.grid import labelled_grid

    if not options.adapters:
        raise StudioError(
            "--adapters: expected at least one run, adapter folder or checkpoint; got none."
        )
    settings, image_files = generate.generate(options, with_base=True)
    many = len(settings.seeds) > 1
    labelled_grid(
        [[read_image(files[pair]) for files in image_files.values()] for pair in settings.pairs],
        [f"{prompt} (seed {seed})" if many else prompt for prompt, seed in settings.pairs],
        list(image_files),
        options.out / "grid.png",
    )
    print(options.out / "grid.png")
    return 0
