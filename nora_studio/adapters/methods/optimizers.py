"""One optimizer for an adapter on several parts, with its method's parameter groups."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.optimization import Adafactor

from nora_studio.adapters.methods.decay import decay_towards_start
from nora_studio.adapters.methods.parameter_groups import LORA_PLUS_RATIO, one_group
from nora_studio.adapters.methods.table import METHODS, check_optimizer

SMALLEST_IN_8_BITS = 256
"""Smallest number of elements of a tensor whose moments are kept in 8 bits: one block."""


def make_optimizer(
    method: str,
    parts: dict[str, nn.Module],
    rates: dict[str, float],
    weight_decay: float,
    lora_plus_ratio: float = LORA_PLUS_RATIO,
    optimizer: str = "adamw",
    warmup_steps: int = 0,
    first_rate: float = 1e-6,
    extra_groups: Sequence[dict[str, Any]] = (),
) -> torch.optim.Optimizer:
    """Return an optimizer over the trained weights, with a group or two for each part.

    Args:
        method: A name in `METHODS`.
        parts: Adapted modules by part name.
        rates: Peak learning rate of each part.
        weight_decay: Decoupled; towards the start for what the method's `decays_to_start` names.
        lora_plus_ratio: Rate of the output-side factor over that of the input side, for LoRA+.
        optimizer: As `--optimizer` takes it.
        warmup_steps: For schedule-free, which warms up by itself; for others the schedule does.
        first_rate: The rate from which prodigy starts its search; it never goes below it.
        extra_groups: Groups of what is trained besides the adapter, with name, rate and weight
            decay.

    Returns:
        The method's own optimizer if it has one, else the given one. Each group has its part's
        "name".

    Raises:
        StudioError: the method has an optimizer of its own, and `optimizer` is another.
    """
    check_optimizer([method], optimizer)
    own, groups_of = METHODS[method].optimizer, METHODS[method].groups or one_group
    if own is not None:
        made = own(parts, rates, weight_decay, extra_groups)
        decay_towards_start(made, _decaying_to_start(method, parts, made))
        return made
    groups: list[dict[str, Any]] = []
    for part, module in parts.items():
        groups += groups_of(part, module, rates[part], weight_decay, lora_plus_ratio)
    # The extra groups' weights may be in an adapted part too.
    extra = {id(parameter) for group in extra_groups for parameter in group["params"]}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in extra]
    made = _create([*groups, *extra_groups], optimizer, weight_decay, warmup_steps, first_rate)
    decay_towards_start(made, _decaying_to_start(method, parts, made))
    return made


def _decaying_to_start(
    method: str, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> list[nn.Parameter]:
    """Return the weights whose decay is towards the start, where any decay or scaling applies."""
    names = METHODS[method].decays_to_start
    own = {
        parameter
        for module in parts.values()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and not names.isdisjoint(name.split("."))
    }
    return [
        parameter
        for group in optimizer.param_groups
        # Prodigy's shares scale weights before and after each step, which rounds them too.
        if group["weight_decay"] > 0 or group.get("share", 1.0) != 1
        for parameter in group["params"]
        if parameter in own
    ]


def _create(
    groups: list[dict[str, Any]],
    optimizer: str,
    weight_decay: float,
    warmup_steps: int,
    first_rate: float,
) -> torch.optim.Optimizer:
    if optimizer == "adamw":
        return _adamw(groups, weight_decay)
    if optimizer == "adafactor":
        # Torch's Adafactor scales each step by the weights' size, and an adapter starts at zero.
        return Adafactor(
            groups, lr=1e-3, weight_decay=weight_decay, scale_parameter=False, relative_step=False
        )
    # Optional libraries, imported only where they are needed.
    if optimizer == "schedule-free":
        from schedulefree import AdamWScheduleFree

        decayed = [{"weight_decay": weight_decay, **group} for group in groups]
        free = AdamWScheduleFree(decayed, warmup_steps=warmup_steps)
        free.train()
        return free
    if optimizer == "prodigy":
        from nora_studio.adapters.methods.prodigy import SharedProdigy

        largest = max(group["lr"] for group in groups)
        shared = [
            {"weight_decay": weight_decay, **g, "lr": 1.0, "share": g["lr"] / largest}
            for g in groups
        ]
        return SharedProdigy(shared, use_bias_correction=True, safeguard_warmup=True, d0=first_rate)
    from bitsandbytes.optim import AdamW8bit, Lion

    if optimizer == "lion":
        return Lion([{"weight_decay": weight_decay, **group} for group in groups])
    # Adapters are many small matrices; by default those below 4096 elements stay in 32 bits.
    return AdamW8bit(groups, weight_decay=weight_decay, min_8bit_size=SMALLEST_IN_8_BITS)


def _adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW; on a GPU in its fused form, whose checkpoints are those of the plain one."""
    if not any(parameter.is_cuda for group in groups for parameter in group["params"]):
        return torch.optim.AdamW(groups, weight_decay=weight_decay)
    made = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)

    def as_plain(_: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        for group in saved["param_groups"]:
            group["fused"] = None
        saved["state"] = {
            key: {**state, "step": state["step"].cpu()} for key, state in saved["state"].items()
        }

    def as_fused(_: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        for group in saved["param_groups"]:
            group["fused"] = True

    made.register_state_dict_post_hook(as_plain)
    made.register_load_state_dict_pre_hook(as_fused)
    return made


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    """Return the rates for a log line, by group: as scheduled, and Prodigy's effective ones."""
    groups = optimizer.param_groups
    # Schedule-free warms up by itself; "lr" is then its peak.
    rates = {g["name"]: g.get("scheduled_lr", g["lr"]) * g.get("share", 1) for g in groups}
    found = {g["name"]: rates[g["name"]] * g["d"] for g in groups if "share" in g}
    return {"learning_rate": rates} | ({"effective_learning_rate": found} if found else {})


def drop_state(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Drop the optimizer's state of weights that are no longer trained."""
    gone = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        if "share" in group or not any(id(parameter) in gone for parameter in group["params"]):
            continue  # Prodigy's estimate of the rate still needs their state.
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
        for name in group.get("names", ()):  # LoRA-FA's state has names as keys.
            optimizer.state.pop(name[: name.find("lora")] + "lora", None)
        for key in group.keys() & {"names", "scaling_factors"}:
            group[key] = []
