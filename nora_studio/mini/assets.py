"""The models and subjects that are shipped with the project."""

from pathlib import Path

from nora_studio.errors import StudioError

EMBEDDED = "embedded"
"""The name of the shipped models."""


def assets_dir() -> Path:
    """Return the folder of shipped models and subjects: in the checkout, or inside the wheel."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "assets", package / "_bundle" / "assets"):
        if (folder / "mini-sdxl" / "model_index.json").is_file():
            return folder
    raise StudioError(
        f"expected the embedded models in {package.parent / 'assets'}; they are missing. "
        "Reinstall nora-studio, or rebuild them with `python training/pretrain_mini.py`."
    )


def embedded(name: str) -> Path:
    """Return the folder of a shipped asset: "mini-sdxl", "mini-clip" or "subjects"."""
    return assets_dir() / name


def find_model(model: str, shipped: str) -> Path | None:
    """Find the local model that `--model` names.

    Args:
        model: `EMBEDDED`, a directory, or a Hub name (owner/name).
        shipped: The asset that `EMBEDDED` stands for.

    Returns:
        The model's directory, or a file of that name; None for a Hub name.

    Raises:
        StudioError: `model` is none of these.
    """
    place = embedded(shipped) if model == EMBEDDED else Path(model).expanduser()
    if place.exists():
        return place
    if model.count("/") == 1 and not model.startswith((".", "/", "~")):
        return None
    raise StudioError(
        f"--model: expected 'embedded', a directory or a Hub name (owner/name); got {model!r}, and "
        "no such directory exists. Check the path."
    )
