"""All limits of the web app: what one request may use of the owner's machine.

Each limit is a pair: for visitors of a studio that others reach, and for an owner who uses it
alone. The owner's limits are generous, but finite, so that a typing error does not fill the disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nora_studio.errors import StudioError

GIB = 1024**3
QUOTA_BYTES = 5 * GIB
"""Bytes of a visitor's whole workspace, runs included, unless the owner sets another quota."""
OWNERS_QUOTA_BYTES = 500 * GIB

TRAINING_LIMITS: Mapping[str, tuple[int, int]] = {
    "--steps": (20_000, 1_000_000),
    "--batch-size": (16, 1_024),
    "--accumulate": (16, 1_024),
    "--resolution": (1_024, 4_096),
    "--crops": (32, 1_000),
    "--sample-steps": (100, 1_000),
    "--class-pictures": (400, 100_000),
    "--keep-checkpoints": (10, 1_000),
    "--unet.rank": (512, 8_192),
    "--unet.outer-rank": (1_024, 8_192),
    "--text-encoder.rank": (512, 8_192),
    "--text-encoder.outer-rank": (1_024, 8_192),
    "--text-encoder-2.rank": (512, 8_192),
    "--text-encoder-2.outer-rank": (1_024, 8_192),
    "methods at once": (4, 32),
    "samples of a run": (1_000, 100_000),
    "checkpoints written in a run": (500, 100_000),
    "measurements in a run": (2_000, 1_000_000),
    "lines of a run's log": (20_000, 1_000_000),
}
"""Limits of one training, by its flag or by a figure that several flags determine."""
IMAGE_LIMITS: Mapping[str, tuple[int, int]] = {
    "pictures": (200, 2_000),
    "columns": (25, 200),
    "steps": (150, 1_000),
    "size": (1_536, 4_096),
    "photos to compare with": (50, 500),
    "adapters at once": (6, 32),
}
"""Limits of one image job."""
MAX_RUNS, MAX_PROMPTS, MAX_SEEDS, MAX_STRENGTHS, MAX_CHECKPOINTS = 4, 24, 4, 8, 8
"""Limits of one measurement on the Scores page, also for the owner: the page shows no more."""
MAX_MIXED = 8
"""Adapters that can be combined, also for the owner."""
MAX_RANK = 4_096
"""Highest rank of an exported file, also for the owner."""


@dataclass(frozen=True)
class LimitCheck:
    """Refuse values above the limits of a visitor, or of the owner."""

    is_owner: bool = False
    """Whether only the owner reaches the studio."""

    def check(
        self, table: Mapping[str, tuple[int, int]], requested: Mapping[str, int | None]
    ) -> None:
        """Refuse values above their limits.

        Args:
            requested: Values by the table's names; None: the trainer's default.

        Raises:
            StudioError: a value is above its limit, which the error names.
        """
        for name, value in requested.items():
            most = table[name][self.is_owner]
            if value is not None and value > most:
                raise StudioError(
                    f"{name}: at most {_number(most)} here; got {_number(value)}. Choose less."
                )


def _number(value: int) -> str:
    return f"{value:,}" if value >= 10_000 else str(value)
