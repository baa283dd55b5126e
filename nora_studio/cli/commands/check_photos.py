"""`nora-studio check-photos`: find problems in a folder of photos before training on it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Check a folder of photos and report what to remove, replace or add.

    Prints one line per finding, with the file and the remedy. Exit status: 0 if the trainer can use
    every photo, 2 if it would refuse one.
    """

    folder: tyro.conf.Positional[Path]
    """Folder with the subject's photos."""
    resolution: int = 1024
    """Training resolution: side in pixels."""
    captions: bool = True
    """Check the captions."""
    masks: Literal["files", "alpha", "none"] = "files"
    """Which masks to check: mask files, the photos' alpha channels, or none."""
    json: bool = False
    """Write the findings as JSON."""


def run(options: Options) -> int:
    """Print the findings and return the exit status."""
    # Imported here: `--help` and a wrong flag should respond at once.
    from nora_studio.photos.inspection import inspect_folder

    found = inspect_folder(
        options.folder, options.resolution, options.captions, options.masks, flag="FOLDER"
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
        photos = "1 photo" if found.photos == 1 else f"{found.photos} photos"
        print(f"{options.folder}: {photos}, no problems found.")
    return 2 if found.unusable else 0
