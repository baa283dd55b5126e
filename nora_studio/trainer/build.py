"""Build a run in training, whatever its task: adapter, optimizer, schedule, average."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from nora_studio import __version__
from nora_studio.adapters.base_digests import digests_of
from nora_studio.adapters.files.adapter_folders import load_weights, write_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.adapters.methods.table import METHODS
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.nora.outer_cache import OuterCache
from nora_studio.options.part_settings import PartSettings
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.trainer.acceleration import prepared
from nora_studio.trainer.averages import ExponentialAverage, ScheduleFreeAverage, WeightAverage
from nora_studio.trainer.schedules import learning_rate_schedule
from nora_studio.trainer.settings import LearningSettings, TrainerSettings, TuningSettings
from nora_studio.trainer.task import Learner, Task
from nora_studio.trainer.train_state import TrainState


def adapter_spec(
    tuning: TuningSettings,
    method: str,
    values: PartSettings,
    total_steps: int,
    activations: Mapping[str, Tensor] | None = None,
) -> AdapterSpec:
    """Return what `attach` is asked for on one part.

    Args:
        total_steps: Of the run.
        activations: Layer -> mean |x| per input channel, for outer factors along them.
    """
    own = METHODS[method].settings
    plain = AdapterSpec(
        method=method,
        rank=values.rank,
        alpha=values.alpha,
        dropout=tuning.dropout if "dropout" in own else 0.0,
        outer_rank=values.outer_rank,
        total_steps=total_steps if "total_steps" in own else None,
    )
    if "outer" not in own:
        return plain
    return replace(plain, outer=tuning.outer, start=tuning.start, mean_abs_inputs=activations)


@dataclass(frozen=True)
class Adapted:
    """A method on trees of its own over parts of a frozen base."""

    method: str
    sizes: Mapping[str, PartSettings]
    parts: dict[str, nn.Module]
    rules: StepRules
    fingerprints: dict[str, list[float]]
    digests: dict[str, str]


class ExtraWeights(Protocol):
    """Weights that are trained beside an adapter, and lie in a file beside its own."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        ...

    def groups(self) -> list[dict[str, Any]]:
        """As an optimizer takes them; each with a "name"."""
        ...

    def now(self) -> NewTokens | None:
        """As trained so far, on the CPU."""
        ...

    def load(self, folder: Path) -> None:
        """Set them from a checkpoint folder, bit for bit."""
        ...


def adapt(
    settings: TrainerSettings,
    method: str,
    sizes: Mapping[str, PartSettings],
    base: Mapping[str, nn.Module],
    trees: Mapping[str, nn.Module],
    targets: Callable[[str, nn.Module], Sequence[str]],
    *,
    activations: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Adapted:
    """Put a method on trees that share the base's weights, seeded by the settings.

    Args:
        method: Its name in the table of methods.
        sizes: Rank, scale and rate of each adapted part.
        base: The frozen parts, for what tells this base from others.
        trees: Modules of their own over the same weights; with a base in shards, the base's.
        targets: Names of the layers to adapt, of a part and its module.
        activations: Part -> layer -> mean |x| per input channel, for outer factors along them.

    Raises:
        StudioError: a rank does not fit, or a target matches nothing.
    """
    learning, tuning, cache = settings.learning, settings.tuning, settings.tuning.cache
    torch.manual_seed(learning.seed)  # Adapter initialisation.
    prints = {part: fingerprint(base[part]) for part in sizes}
    digests = shared_digests({part: base[part] for part in sizes})
    parts: dict[str, nn.Module] = {}
    outer = OuterCache() if cache and "find_outer" in METHODS[method].settings else None
    with main_first_where_kept(cache):
        for part, values in sizes.items():
            module = parts[part] = trees[part]
            own = None if activations is None else activations.get(part)
            spec = adapter_spec(tuning, method, values, learning.steps, own)
            attach(module, list(targets(part, module)), replace(spec, find_outer=outer))
        if outer is not None:
            outer.prune()
    rules = METHODS[method].steps(parts, learning.seed)
    return Adapted(method, sizes, parts, rules, prints, digests)


def learner(
    settings: TrainerSettings,
    adapted: Adapted,
    step: nn.Module,
    card: Mapping[str, Any],
    first_rate: float,
    *,
    extra: ExtraWeights | None = None,
    **more: Any,
) -> Learner:
    """Return what trains an adapted tree: its optimizer, and the files of its adapter.

    Args:
        step: The module whose forward is the loss.
        card: What its files say beyond what `adapted` knows, by the fields of an `AdapterCard`.
        first_rate: Where prodigy begins to look for the rate.
        extra: Weights that are trained beside the adapter.
        more: Other fields of the `Learner`.
    """
    parts = adapted.parts
    optimizer = _optimizer(settings, adapted, first_rate, extra)
    trained = trained_parameters(parts) + (extra.parameters if extra else [])
    facts = AdapterCard(
        method=adapted.method,
        fingerprints=adapted.fingerprints,
        digests=adapted.digests,
        steps=0,
        seed=settings.learning.seed,
        parameters=sum(parameter.numel() for parameter in trained),
        version=__version__,
        **card,
    )

    def load(folder: Path) -> None:
        load_weights(folder, parts, facts)
        if extra:
            extra.load(folder)

    return Learner(
        step=step,
        optimizer=optimizer,
        parameters=trained,
        rules=adapted.rules,
        write=lambda folder, at: write_adapter(
            folder, parts, facts.at(at), extra.now() if extra else None
        ),
        load=load,
        adapted=parts,
        **more,
    )


def _optimizer(
    settings: TrainerSettings, adapted: Adapted, first_rate: float, extra: ExtraWeights | None
) -> torch.optim.Optimizer:
    learning = settings.learning
    return make_optimizer(
        adapted.method,
        adapted.parts,
        {part: values.learning_rate for part, values in adapted.sizes.items()},
        learning.weight_decay,
        settings.tuning.lora_plus_ratio,
        learning.optimizer,
        learning.warmup_steps,
        first_rate,
        extra.groups() if extra else (),
    )


def build_train_state(task: Task, method: str, run: Run, accelerator: Accelerator) -> TrainState:
    """Put a method to work on a task, prepared for the loop.

    Raises:
        StudioError: it does not fit the model.
    """
    learning, own = task.trainer.learning, task.build(method, run, accelerator)
    schedule = schedule_of(learning, own.optimizer)
    model, optimizer = prepared(accelerator, own.step, own.optimizer, task.sharding)
    state = TrainState(
        label=method,
        run=run,
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        parameters=own.parameters,
        write_adapter=own.write,
        load_adapter=own.load,
        rules=own.rules,
        keeps_best=task.trainer.keeping.keep_best,
        average=average_of(learning, own.parameters, optimizer),
        adapted=own.adapted,
        rows=task.rows,
    )
    state.task_callbacks = [make(state) for make in own.callbacks]
    return state


def schedule_of(learning: LearningSettings, optimizer: torch.optim.Optimizer) -> Any:
    """Return the learning-rate schedule of a run."""
    return learning_rate_schedule(
        learning.schedule,
        optimizer,
        learning.steps,
        # Schedule-free warms up inside the optimizer.
        0 if learning.optimizer == "schedule-free" else learning.warmup_steps,
        learning.schedule_cycles,
        learning.schedule_power,
        learning.final_rate,
    )


def average_of(
    learning: LearningSettings, trained: list[nn.Parameter], optimizer: Any
) -> WeightAverage | None:
    """Return the average that is served in place of the trained weights; None: they are served."""
    if learning.optimizer == "schedule-free":
        return ScheduleFreeAverage(trained, optimizer)
    return ExponentialAverage(trained, learning.ema) if learning.ema else None


def trained_parameters(parts: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Return the adapters' trained weights, part by part."""
    return [p for module in parts.values() for p in adapter_parameters(module).values()]


def main_first_where_kept(cache: bool) -> contextlib.AbstractContextManager[None]:
    """Let the main process find outer factors first; kept on disk, the others read them."""
    return processes.main_first() if cache else contextlib.nullcontext()


def shared_digests(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """`digests_of` some parts; the main process reads the base's files, the others what it kept."""
    with processes.main_first():
        return digests_of(modules)
