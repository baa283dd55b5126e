"""What to do about a damaged file of an adapter, which depends on where the file is."""

import re
from pathlib import Path

_STEP = re.compile(r"step-\d{6,}")


def get_again(path: Path) -> str:
    """Describe in one sentence how to get an adapter again whose file is damaged.

    Args:
        path: The file, or a folder of the adapter: in a run, in one of its checkpoints, or anywhere
            else, downloaded or exported.
    """
    path = Path(path)
    for folder in (path, *path.parents, *path.absolute().parents):
        if _STEP.fullmatch(folder.name) and folder.parent.name == "checkpoints":
            return damaged_checkpoint_remedy(folder)
        run = folder.parent
        if folder.name == "adapter" and (run / "config.toml").is_file():
            if any((run / "checkpoints").glob("step-*")):
                return f"Continue {run} with --resume, which writes its adapter again."
            return "Restore it from a copy, or train again."
    if path.suffix == ".safetensors" and not (path.parent / "adapter_config.json").exists():
        return "Download it again, or export it again from its run."
    return "Restore it from a copy, or download it again."


def damaged_checkpoint_remedy(folder: Path) -> str:
    """Describe in one sentence how to continue a run without a damaged checkpoint."""
    if any(other != folder for other in folder.parent.glob("step-*")):
        return f"Delete {folder}, and continue the run from another checkpoint with --resume."
    return "It is the run's only checkpoint: restore it from a copy, or start another run."
