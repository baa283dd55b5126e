"""Training state as safetensors: optimizer, schedule, batch sampling and torch's generators."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nora_studio.adapters.methods.steps import with_prefix
from nora_studio.errors import StudioError
from nora_studio.runs.remedies import damaged_checkpoint_remedy
from nora_studio.runs.strict_json import JsonObject
from nora_studio.runs.tensor_headers import read_header

STATE = "state.safetensors"
_UNREADABLE = (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError)


def generator_states() -> dict[str, Tensor]:
    """Return the states of this process's generators, which dropout samples from."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


@dataclass(frozen=True)
class CheckpointState:
    """The state that a checkpoint holds next to the adapter's files."""

    step: int
    optimizer: dict[str, Any]
    """An optimizer's `state_dict`."""
    schedule: JsonObject
    """A learning-rate schedule's `state_dict`, without tensors."""
    batches: dict[str, Tensor]
    """`BatchSource.state`."""
    scaler: JsonObject
    """The gradient scaler's `state_dict`; empty without float16."""
    rules: dict[str, Tensor] = field(default_factory=dict)
    """State of the method's own rules."""
    generators: dict[str, Tensor] = field(default_factory=dict)
    """Torch's own: "cpu", and "cpu.1" of the process of rank 1. Empty: save this process's."""
    weights: list[Tensor] = field(default_factory=list)
    """The trained weights, if the adapter's files hold an average of them."""
    loss_sums: Tensor | None = None  # (processes,)
    """Sum of each process's losses since the last log line."""
    logged_step: int = 0
    """The step of that line."""


def write_state(folder: Path, state: CheckpointState) -> None:
    """Write a training state into a checkpoint folder as flat safetensors, without pickle.

    Raises:
        OSError: the file cannot be written. (The library's own writer would hide the reason.)
    """
    tensors = {f"draws.{name}": tensor for name, tensor in state.batches.items()}
    tensors |= {f"rules.{name}": tensor.contiguous() for name, tensor in state.rules.items()}
    generators = state.generators or generator_states()
    tensors |= {f"generator.{name}": tensor for name, tensor in generators.items()}
    tensors |= {f"weights.{n}": t.cpu().contiguous() for n, t in enumerate(state.weights)}
    if state.loss_sums is not None:
        tensors["progress.loss_sums"] = state.loss_sums
    plain: dict[str, JsonObject] = {}
    for index, values in state.optimizer["state"].items():
        for name, value in _unwrapped(values).items():
            if isinstance(value, Tensor):
                # Cloned: some optimizers share a tensor among weights, which the format refuses.
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous().clone()
            else:
                plain.setdefault(str(index), {})[name] = value
    facts = {
        "step": state.step,
        "groups": state.optimizer["param_groups"],
        # Sorted: a restored optimizer may hold its state in another order, and the files would
        # differ.
        "plain": dict(sorted(plain.items())),
        "schedule": state.schedule,
        "scaler": state.scaler,
        "logged_step": state.logged_step,
    }
    # Sorted too: the file has the tensors in the order of this dictionary.
    ordered = dict(sorted(tensors.items()))
    (folder / STATE).write_bytes(save(ordered, metadata={"training": json.dumps(facts)}))


def _unwrapped(values: dict[str, Any]) -> dict[str, Any]:
    """Flatten one weight's state; bitsandbytes nests a part of it in a dictionary."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= value if isinstance(value, dict) else {name: value}
    return flat


def read_state(folder: Path, rank: int = 0) -> CheckpointState:
    """Read a training state and set torch's own generators to it.

    A process that the run did not have before gets a new seed.

    Args:
        folder: The checkpoint's folder.
        rank: Rank of this process.

    Raises:
        StudioError: the file is missing or damaged.
    """
    file = folder / STATE
    try:
        return _read(file, rank)
    except StudioError:
        raise
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StudioError(
            f"{file} cannot be read: {reason}. {damaged_checkpoint_remedy(folder)}"
        ) from error


def _read(file: Path, rank: int) -> CheckpointState:
    read_header(file, damaged_checkpoint_remedy(file.parent))  # Refuses ambiguous files.
    with safe_open(file, framework="pt") as archive:
        facts = json.loads(archive.metadata()["training"])
        # Cloned: tensors are mapped to the file, and the optimizer updates its own in place.
        tensors = {
            name: archive.get_tensor(name).clone()
            for name in archive.keys()  # noqa: SIM118
        }
    optimizer: dict[int | str, dict[str, Any]] = {}
    batches: dict[str, Tensor] = {}
    rules: dict[str, Tensor] = {}
    weights: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "draws":
            batches[rest] = tensor
        elif kind == "optimizer":
            index, _, key = rest.rpartition(".")
            optimizer.setdefault(_index(index), {})[key] = tensor
        elif kind == "rules":
            rules[rest] = tensor
        elif kind == "weights":
            weights[int(rest)] = tensor
    for index, values in facts["plain"].items():
        optimizer.setdefault(_index(index), {}).update(values)
    generators = with_prefix(tensors, "generator.")
    _set_generators(generators, rank, facts["step"])
    return CheckpointState(
        step=facts["step"],
        optimizer={"state": optimizer, "param_groups": facts["groups"]},
        schedule=facts["schedule"],
        batches=batches,
        scaler=facts["scaler"],
        rules=rules,
        generators=generators,
        weights=[weights[number] for number in sorted(weights)],
        loss_sums=tensors.get("progress.loss_sums"),
        logged_step=facts.get("logged_step", facts["step"]),
    )


def _set_generators(states: dict[str, Tensor], rank: int, step: int) -> None:
    suffix = f".{rank}" if rank else ""
    if f"cpu{suffix}" not in states:
        torch.manual_seed(torch.initial_seed() + step)
        return
    torch.set_rng_state(states[f"cpu{suffix}"])
    if f"cuda{suffix}" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[f"cuda{suffix}"])


def _index(text: str) -> int | str:
    """Parse a key of an optimizer's state: a parameter's number, or its name for LoRA-FA."""
    return int(text) if text.isdigit() else text
