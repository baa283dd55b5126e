"""Write beside, then replace: nothing is ever half written, and nothing good is lost."""

import os
import shutil
from pathlib import Path


class replacing:
    """Build a folder beside its destination and swap it in when the block ends well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")

    def __enter__(self) -> Path:
        shutil.rmtree(self.fresh, ignore_errors=True)
        self.fresh.mkdir(parents=True)
        return self.fresh

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.fresh, ignore_errors=True)
            return
        old = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.old")
        if self.folder.exists():
            self.folder.rename(old)
        self.fresh.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Replace a text file whole: a reader sees the old or the new, never half of one."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def write_bytes(file: Path, content: bytes) -> None:
    """Replace a file whole."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.write_bytes(content)
    fresh.replace(file)
