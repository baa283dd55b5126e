"""Check of the file that a command's `--plot` names."""

from pathlib import Path

from nora_studio.errors import StudioError


def check_plot_file(file: Path | None) -> None:
    """Refuse a file name that does not end with .png.

    Raises:
        StudioError: the name ends with something else.
    """
    if file is not None and file.suffix.lower() != ".png":
        raise StudioError(f"--plot: expected a file name that ends with .png; got {file}.")
