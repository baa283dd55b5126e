"""`nora-studio check-photos`: what is wrong with a folder of photos, before hours are spent."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Look through a folder of photos and tell what to remove, replace or add.

    One line for each finding, with the file and the remedy. Exit status: 0 if the trainer can use
    all of them, 2 if it would refuse something.
    """

    folder: tyro.conf.Positional[Path]
    """Folder with the subject's photos."""
    resolution: int = 1024
    """Side in pixels that they are to be trained at."""
    captions: bool = True
    """Whether captions are looked at."""
    masks: Literal["files", "alpha", "none"] = "files"
    """Which masks are looked at: files, alpha or none."""
    json: bool = False
    """Write the findings as JSON."""


def run(options: Options) -> int:
    """Print the findings."""
    # Imported here: `--help` and a wrong flag should answer at once.
    from nora_studio.photos.inspection import inspect_folder

    found = inspect_folder(
        options.folder, options.resolution, options.captions, options.masks, asked_by="FOLDER"
    )
    if options.json:
        findings = [
            {**dataclasses.asdict(finding), "file": str(finding.file)} for finding in found.findings
        ]
        print(json.dumps({"photos": found.photos, "findings": findings}, indent=2))
        return 2 if found.unusable else 0
    for finding in found.findings:
        print(("unusable: " if finding.is_unusable else "warning: ") + finding.message)
    if not found.findings:
        print(f"{options.folder}: {found.photos} photos, nothing to say against them.")
    return 2 if found.unusable else 0
