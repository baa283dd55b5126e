"""Settings that the trainer of any task works with: a run's options, resolved.

Options that a user may leave out are None until `resolve` of each task decides them, once; the
settings have no defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from nora_studio.adapters.methods.parameter_groups import LORA_PLUS_RATIO
from nora_studio.options.groups.adapter import TuningOptions
from nora_studio.options.groups.checks import filled
from nora_studio.options.groups.learning import LearningOptions
from nora_studio.options.groups.watching import KeepingOptions, MeasuringOptions
from nora_studio.options.part_settings import PartSettings
from nora_studio.trainer.early_stop import NEVER, EarlyStopping
from nora_studio.trainer.loop import Plan
from nora_studio.trainer.schedules import CYCLES, POWER


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Optimizer, schedule and batch size."""

    seed: int
    """Seed of data order, noise, timesteps and adapter initialisation."""
    steps: int
    """Optimizer steps of the whole run."""
    batch_size: int
    """Examples per step, over all processes."""
    optimizer: str
    schedule: str
    schedule_cycles: int
    """Number of cosine-restarts' cycles."""
    schedule_power: float
    """Power of a polynomial schedule."""
    warmup_steps: int
    final_rate: float
    """Learning rate at the end of a cosine."""
    weight_decay: float
    ema: float
    """Decay of the moving average of the trained weights; 0 for no average."""


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Adapter settings shared by all parts of a model."""

    outer: str
    """How NoRA finds its outer factors: "svd", "randomized" or "activation"."""
    start: str
    """NoRA's initialisation: "difference" or "paper"."""
    dropout: float
    lora_plus_ratio: float
    cache: bool
    """Whether outer factors are cached on disk."""


@dataclass(frozen=True, kw_only=True)
class KeepingSettings:
    """How a run's log, checkpoints and final adapter are kept."""

    tracker: str
    resume: bool
    keep_best: bool
    """Whether the checkpoint with the lowest measured loss is kept at any age."""
    final: str
    """Which step becomes the adapter: "last" or "best"."""
    names_step: bool
    """Whether the status has the step of the adapter."""


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Settings of the trainer for any task."""

    methods: tuple[str, ...]
    """Method names in the order given."""
    parts: Mapping[str, Mapping[str, PartSettings]]
    """Method -> part of the model -> rank, scale and rate of each trained part."""
    learning: LearningSettings
    tuning: TuningSettings
    plan: Plan
    keeping: KeepingSettings


def learning_settings(options: LearningOptions, final_rate: float = 0.0) -> LearningSettings:
    """Resolve the options of the optimizer; steps and batch size must be filled in.

    Args:
        final_rate: Learning rate at the end of a cosine.
    """
    cycles, power = options.schedule_cycles, options.schedule_power
    return LearningSettings(
        seed=options.seed,
        steps=filled(options.steps),
        batch_size=filled(options.batch_size),
        optimizer=options.optimizer,
        schedule=filled(options.schedule),
        schedule_cycles=CYCLES if cycles is None else cycles,
        schedule_power=POWER if power is None else power,
        warmup_steps=options.warmup_steps,
        final_rate=final_rate,
        weight_decay=options.weight_decay,
        ema=0.0 if options.ema is None else options.ema,
    )


def tuning_settings(options: TuningOptions, cache: bool = False) -> TuningSettings:
    """Resolve the options of the adapters.

    Args:
        cache: Whether outer factors are cached on disk.
    """
    ratio = options.lora_plus_ratio
    return TuningSettings(
        outer=options.outer,
        start=options.start,
        dropout=options.dropout,
        lora_plus_ratio=LORA_PLUS_RATIO if ratio is None else ratio,
        cache=cache,
    )


def plan_of(
    learning: LearningOptions,
    keeping: KeepingOptions,
    measuring: MeasuringOptions | None = None,
    sample_every: int = 0,
) -> Plan:
    """Resolve the plan of the loop.

    Args:
        measuring: Options filled in by `with_recommended`; None if the task measures nothing.
        sample_every: Steps between previews; 0 for none within the loop.
    """
    watch = NEVER
    if measuring is not None and measuring.early_stop != "none":
        watch = EarlyStopping(measuring.early_stop, filled(measuring.patience))
    return Plan(
        steps=filled(learning.steps),
        log_every=keeping.log_every,
        checkpoint_every=keeping.checkpoint_every,
        keep_checkpoints=keeping.keep_checkpoints,
        sample_every=sample_every,
        evaluate_every=measuring.evaluate_every if measuring else 0,
        max_gradient_norm=learning.max_gradient_norm,
        watch=watch,
        accumulate=learning.accumulate,
        capture=learning.capture,
    )


def keeping_settings(
    options: KeepingOptions, measuring: MeasuringOptions | None = None
) -> KeepingSettings:
    """Resolve how a run's log, checkpoints and final adapter are kept.

    Args:
        measuring: Options filled in by `with_recommended`; None if the task measures nothing.
    """
    return KeepingSettings(
        tracker=options.tracker,
        resume=options.resume,
        keep_best=filled(measuring.keep_best) if measuring else False,
        final=filled(measuring.final) if measuring else "last",
        names_step=measuring is not None,
    )
