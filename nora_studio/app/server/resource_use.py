"""A training's use of the machine: the quantities that have limits, and disk space."""

import math

from nora_studio.adapters.methods.table import METHODS
from nora_studio.app.server.limits import TRAINING_LIMITS, LimitCheck
from nora_studio.mini.assets import EMBEDDED
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.part_settings import part_settings

WIDTHS = {
    "embedded": {
        "attention": {"unet": 28_032, "text_encoder": 3_072, "text_encoder_2": 4_096},
        "attention+feedforward": {"unet": 56_832, "text_encoder": 6_912, "text_encoder_2": 9_216},
    },
    "sdxl": {
        "attention": {"unet": 1_451_520, "text_encoder": 67_584, "text_encoder_2": 327_680},
        "attention+feedforward": {
            "unet": 2_659_840,
            "text_encoder": 152_064,
            "text_encoder_2": 737_280,
        },
    },
}
"""Inputs and outputs of all adapted layers: a LoRA of rank 1 has as many parameters."""
OPTIMIZER_STATE = 2
"""Adam's moments for each parameter; optimizers with less state are overestimated a little."""
IMAGE_BYTES_PER_PIXEL = 0.5
"""Lower bound for a PNG; photos have about 1.5, the embedded model's images more."""
FULL_SIDE = 1024
SIDES = {EMBEDDED: 128}
"""Default sides in pixels of a model's images; other models: `FULL_SIDE`."""


def check_training(options: DreamboothOptions, limits: LimitCheck) -> None:
    """Refuse a training that exceeds a limit.

    Raises:
        StudioError: an option, or a figure that several options determine, exceeds its limit.
    """
    limits.check(TRAINING_LIMITS, training_figures(options))


def training_figures(options: DreamboothOptions) -> dict[str, int | None]:
    """Return the quantities that `TRAINING_LIMITS` bounds, for resolved options."""
    steps, methods = options.steps or 0, len(options.methods)
    figures: dict[str, int | None] = {
        "--steps": steps,
        "--batch-size": options.batch_size,
        "--accumulate": options.accumulate,
        "--resolution": options.resolution,
        "--crops": options.crops,
        "--sample-steps": options.sample_steps,
        "--class-pictures": options.class_pictures,
        "--keep-checkpoints": options.keep_checkpoints,
    }
    for method in options.methods:
        # The value that is used: recommended, given, or overridden for this method.
        for part, own in part_settings(options, method).items():
            flag = f"--{part.replace('_', '-')}"
            for option, value in (("rank", own.rank), ("outer-rank", own.outer_rank)):
                figures[f"{flag}.{option}"] = max(figures.get(f"{flag}.{option}") or 0, value or 0)
    return figures | {
        "methods at once": methods,
        "samples of a run": sample_count(options),
        "checkpoints written in a run": math.ceil(steps / options.checkpoint_every),
        "measurements in a run": (
            math.ceil(steps / options.evaluate_every) if options.evaluate_every else 0
        ),
        "lines of a run's log": math.ceil(steps / options.log_every),
    }


def sample_count(options: DreamboothOptions) -> int:
    """Return the number of samples of each run: the base's, those in training, the final ones."""
    every = options.sample_every
    times = 1 + (math.ceil((options.steps or 0) / every) if every else 1)
    return times * max(1, len(options.sample_prompts))


def training_bytes(options: DreamboothOptions, measured: float | None = None) -> int:
    """Return a lower bound of the bytes that a training writes, all methods together.

    Args:
        options: Options with the recommended values filled in.
        measured: Size of adapters and checkpoints by a preflight of the same options.
    """
    steps = options.steps or 0
    kept = min(options.keep_checkpoints, math.ceil(steps / options.checkpoint_every))
    # A new checkpoint is written before an old one is deleted; the best may be kept as well.
    kept += 1 + bool(options.keep_best)
    saved = 0
    for method in options.methods:
        adapter, checkpoint = least_file_sizes(options, method)
        saved += adapter + kept * checkpoint
    side = options.resolution or SIDES.get(options.model, FULL_SIDE)
    images = sample_count(options) * len(options.methods)
    if options.prior_weight > 0 and options.class_dir is None:
        images += options.class_pictures or 0
    image_bytes = int(images * IMAGE_BYTES_PER_PIXEL * side**2)
    return (saved if measured is None else int(measured)) + image_bytes


def least_preflight_writes(options: DreamboothOptions) -> int:
    """Return a lower bound of what a preflight writes and deletes again."""
    return sum(2 * least_file_sizes(options, method)[1] for method in options.methods)


def least_file_sizes(options: DreamboothOptions, method: str) -> tuple[int, int]:
    """Return lower bounds of the sizes of an adapter folder and of a checkpoint, for one method.

    A NoRA's folder holds its frozen outer factors, in half precision at least. For a method that
    does not train both factors of a layer, a LoRA of rank 1 is assumed.
    """
    widths = WIDTHS[_family(options)][options.targets or "attention"]
    adapter = checkpoint = 0
    for part, own in part_settings(options, method).items():
        if own.outer_rank is not None:
            frozen, trained = 2 * own.outer_rank * widths[part], 0
        else:
            frozen = 0
            trained = 4 * widths[part] * (own.rank if METHODS[method].both_factors else 1)
        adapter += frozen + trained
        checkpoint += frozen + trained * (1 + OPTIMIZER_STATE)
    return adapter, checkpoint


def _family(options: DreamboothOptions) -> str:
    return "embedded" if options.model == EMBEDDED else "sdxl"
