"""Where the project's own files lie."""

from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
"""The checkout."""
GOLDEN = TOP / "tests" / "golden"
"""What version 0.1.0 wrote; read only."""
