"""Every module and script of the project."""

from pathlib import Path

from support.places import TOP

PACKAGE = TOP / "nora_studio"


ENTRY_FOLDERS = ("training", "evaluation")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def scripts() -> list[Path]:
    found = [file for folder in ENTRY_FOLDERS for file in (TOP / folder).rglob("*.py")]
    app = TOP / "app.py"
    return sorted([*found, *([app] if app.is_file() else [])])
