"""What to do about a damaged file of an adapter: it depends on where the file lies."""

import re
from pathlib import Path

_STEP = re.compile(r"step-\d{6,}")


def get_again(path: Path) -> str:
    """Say in one sentence how a damaged adapter is had again.

    Args:
        path: The file, or a folder of the adapter: in a run, in one of its checkpoints, or anywhere
            else, downloaded or exported.
    """
    path = Path(path)
    for folder in (path, *path.parents, *path.absolute().parents):
        if _STEP.fullmatch(folder.name) and folder.parent.name == "checkpoints":
            return drop_checkpoint(folder)
        run = folder.parent
        if folder.name == "adapter" and (run / "config.toml").is_file():
            if any((run / "checkpoints").glob("step-*")):
                return f"Go on with {run} by --resume, which writes its adapter again."
            return "Put back a copy of it, or train again."
    if path.suffix == ".safetensors" and not (path.parent / "adapter_config.json").exists():
        return "Download it again, or export it again from the run that it came from."
    return "Put back a copy of it, or download it again."


def drop_checkpoint(folder: Path) -> str:
    """Say in one sentence how a run goes on without a damaged checkpoint."""
    if any(other != folder for other in folder.parent.glob("step-*")):
        return f"Delete {folder}, and the run goes on from another checkpoint by --resume."
    return "It is its run's only checkpoint: put back a copy of it, or begin another run."
