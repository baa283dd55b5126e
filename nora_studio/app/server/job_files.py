"""The files of a job's folder: JSON, the process that runs it, and its output."""

import json
import os
from pathlib import Path
from typing import Any

from nora_studio.runs.process_id import ProcessId, host_name


def read_json(file: Path) -> dict[str, Any]:
    """Read one of a job's JSON files; empty while there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def read_process(file: Path) -> ProcessId | None:
    """Return the process that `process.json` names; None before there is one."""
    facts = read_json(file)
    return ProcessId(facts["pid"], facts["started"], host_name()) if facts else None


def read_output(file: Path, most_bytes: int) -> str:
    """Read what a job printed, or the end of it; empty where there is no such file."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - most_bytes))
            return stream.read().decode("utf-8", "replace")
    except OSError:
        return ""


def terminal_lines(text: str) -> list[str]:
    """Split output into lines as a terminal shows them: progress bars once."""
    shown = [line.rstrip("\r").rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in shown if line]
