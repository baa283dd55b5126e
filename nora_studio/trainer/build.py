"""Build the training state of a run for any task: adapter, optimizer, schedule, average."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from nora_studio import __version__
from nora_studio.adapters.base_digests import digests_of
from nora_studio.adapters.files.adapter_folders import load_weights, write_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import adapter_parameters, attach
from nora_studio.adapters.methods.optimizers import make_optimizer
from nora_studio.adapters.methods.peft_tuners import tuner_layers
from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.step_rules import StepRules
from nora_studio.adapters.methods.table import METHODS
from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.nora.outer_cache import OuterCache
from nora_studio.options.part_settings import PartSettings
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.trainer.acceleration import prepared, without_autocast
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
    """Return the adapter to attach to one part.

    Args:
        total_steps: Steps of the run.
        activations: Layer -> mean |x| per input channel, for activation-aware outer factors.
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
    """A method attached to modules that share the weights of a frozen base."""

    method: str
    sizes: Mapping[str, PartSettings]
    parts: dict[str, nn.Module]
    rules: StepRules
    fingerprints: dict[str, list[float]]
    digests: dict[str, str]


class ExtraWeights(Protocol):
    """Weights that are trained with an adapter and saved in a separate file next to its own."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        ...

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups for an optimizer, each with a "name"."""
        ...

    def now(self) -> NewTokens | None:
        """Return the weights as trained so far, on the CPU."""
        ...

    def load(self, folder: Path) -> None:
        """Load the weights from a checkpoint folder, bit for bit."""
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
    """Attach a method to modules that share the base's weights, with the seed of the settings.

    Args:
        method: Its name in the table of methods.
        sizes: Rank, scale and learning rate of each adapted part.
        base: The frozen parts, whose fingerprints and digests identify the base.
        trees: Modules that share the base's weights; with a sharded base, the base's own modules.
        targets: Returns the names of the layers to adapt, given a part's name and its module.
        activations: Part -> layer -> mean |x| per input channel, for activation-aware outer
            factors.

    Raises:
        StudioError: a rank is out of range, or no layer matches a target.
    """
    learning, tuning, cache = settings.learning, settings.tuning, settings.tuning.cache
    torch.manual_seed(learning.seed)  # Adapter initialisation.
    prints = {part: fingerprint(base[part]) for part in sizes}
    digests = shared_digests({part: base[part] for part in sizes})
    parts: dict[str, nn.Module] = {}
    outer = OuterCache() if cache and "find_outer" in METHODS[method].settings else None
    with main_first_if_cached(cache):
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
    recomputes: bool = False,
    **more: Any,
) -> Learner:
    """Return the `Learner` of an adapted base: its optimizer, and how its adapter is saved.

    Args:
        step: The module whose forward returns the loss.
        card: Fields of the `AdapterCard` that `adapted` does not provide.
        first_rate: First estimate of the learning rate for prodigy.
        extra: Weights that are trained with the adapter.
        recomputes: Whether activations are computed again in the backward pass.
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

    record = METHODS[adapted.method]
    stack = record.step_tensors
    return Learner(
        step=step,
        optimizer=optimizer,
        parameters=trained,
        rules=adapted.rules,
        write=lambda folder, at: write_adapter(
            folder, parts, facts.at(at), extra.now() if extra else None
        ),
        load=load,
        step_tensors=None if stack is None else lambda: stack(parts.values()),
        eager=record.eager or (_TWICE if recomputes and settings.tuning.dropout else None),
        adapted=parts,
        **more,
    )


_TWICE = "checkpointing has to sample dropout's masks twice"


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
    """Build the training state of a method on a task, ready for the loop.

    Raises:
        StudioError: the method's settings do not fit the model.
    """
    learning, own = task.trainer.learning, task.build(method, run, accelerator)
    schedule = schedule_of(learning, own.optimizer)
    # DDP and FSDP read each parameter and each weight of the base themselves.
    alone = accelerator.num_processes == 1 and task.sharding is None
    if alone and own.step_tensors and all(map(_converts, own.adapted.values())):
        without_autocast(accelerator)
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
        step_tensors=own.step_tensors if alone else None,
        eager=own.eager if alone else "several processes or a sharded base",
        keeps_best=task.trainer.keeping.keep_best,
        average=average_of(learning, own.parameters, optimizer),
        adapted=own.adapted,
        rows=task.rows,
    )
    state.task_callbacks = [make(state) for make in own.callbacks]
    return state


def _converts(module: nn.Module) -> bool:
    """Return whether all adapter layers of a module compute in the base's dtype by themselves."""
    layers = tuner_layers(module).values()
    return all(getattr(layer, "converts_dtypes", False) for layer in layers)


def schedule_of(learning: LearningSettings, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Return the learning-rate schedule of a run."""
    return learning_rate_schedule(
        learning.schedule,
        optimizer,
        learning.steps,
        # The schedule-free optimizer does its own warm-up.
        0 if learning.optimizer == "schedule-free" else learning.warmup_steps,
        learning.schedule_cycles,
        learning.schedule_power,
        learning.final_rate,
    )


def average_of(
    learning: LearningSettings, trained: list[nn.Parameter], optimizer: torch.optim.Optimizer
) -> WeightAverage | None:
    """Return the average that is evaluated and saved; None to use the trained weights."""
    if learning.optimizer == "schedule-free":
        return ScheduleFreeAverage(trained, optimizer)
    return ExponentialAverage(trained, learning.ema) if learning.ema else None


def trained_parameters(parts: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Return the adapters' trained weights, in the order of the parts."""
    return [p for module in parts.values() for p in adapter_parameters(module).values()]


def main_first_if_cached(cache: bool) -> contextlib.AbstractContextManager[None]:
    """Let the main process find outer factors first if others can read them from the cache."""
    return processes.main_first() if cache else contextlib.nullcontext()


def shared_digests(modules: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return `digests_of` some parts; only the main process reads the base's files for them."""
    with processes.main_first():
        return digests_of(modules)
