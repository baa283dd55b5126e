"""One optimizer for an adapter on several parts, as its method wants it."""

from collections.abc import Sequence
from typing import Any

import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn
from transformers.optimization import Adafactor

from nora_studio.adapters.methods.decay import decay_towards_start
from nora_studio.adapters.methods.table import METHODS, check_optimizer

LORA_PLUS_RATIO = 16.0
"""LoRA+ (arXiv:2402.12354): how many times faster the output side learns; the paper's 2^4."""
VB_BANK_SHARE = 0.1
"""VB-LoRA: the bank's share of the rate, as in PEFT's guide (logits 1e-2, bank 1e-3)."""

SMALLEST_IN_8_BITS = 256
"""Numbers in a tensor from which on its moments are kept in 8 bits: one block of them."""


def make_optimizer(
    method: str,
    parts: dict[str, nn.Module],
    rates: dict[str, float],
    weight_decay: float,
    lora_plus_ratio: float = LORA_PLUS_RATIO,
    optimizer: str = "adamw",
    warmup_steps: int = 0,
    first_rate: float = 1e-6,
    more: Sequence[dict[str, Any]] = (),
) -> torch.optim.Optimizer:
    """An optimizer over the trained weights, or the method's own; a group or two for each part.

    Args:
        method: A name in `METHODS`.
        parts: Adapted modules by part name.
        rates: Peak learning rate of each part.
        weight_decay: Decoupled; of what the method names in `decays_to_start`, towards the start.
        lora_plus_ratio: How many times faster an output side learns, where the method has that.
        optimizer: As the trainer's option of that name.
        warmup_steps: For schedule-free, which warms up by itself; for others the schedule does.
        first_rate: Where prodigy begins to look for the rate; it only ever raises it.
        more: Groups of what is trained beside the adapter, with name, rate and weight decay.

    Returns:
        An optimizer whose groups carry their part's "name".

    Raises:
        StudioError: the method has an optimizer of its own, and another is asked for.
    """
    check_optimizer([method], optimizer)
    own, groups_of = METHODS[method].optimizer, METHODS[method].groups or one_group
    if own is not None:
        made = own(parts, rates, weight_decay, more)
        decay_towards_start(made, _starting_apart(method, parts, made))
        return made
    groups: list[dict[str, Any]] = []
    for part, module in parts.items():
        groups += groups_of(part, module, rates[part], weight_decay, lora_plus_ratio)
    # What is trained beside an adapter may stand in an adapted part too.
    beside = {id(parameter) for group in more for parameter in group["params"]}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in beside]
    made = _over([*groups, *more], optimizer, weight_decay, warmup_steps, first_rate)
    decay_towards_start(made, _starting_apart(method, parts, made))
    return made


def _starting_apart(
    method: str, parts: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> list[nn.Parameter]:
    """The weights of a method that are to stay at their start where there is no gradient."""
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
        # Prodigy's shares scale weights to and fro, which rounds them too.
        if group["weight_decay"] > 0 or group.get("share", 1.0) != 1
        for parameter in group["params"]
        if parameter in own
    ]


def _over(
    groups: list[dict[str, Any]],
    optimizer: str,
    weight_decay: float,
    warmup_steps: int,
    first_rate: float,
) -> torch.optim.Optimizer:
    if optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=weight_decay)
    if optimizer == "adafactor":
        # Torch's own scales each step by the weights' size, and an adapter begins at zero.
        return Adafactor(
            groups, lr=1e-3, weight_decay=weight_decay, scale_parameter=False, relative_step=False
        )
    # Optional libraries, imported only where they are asked for.
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
    # Adapters are many small matrices; the library would leave those below 4096 in 32 bits.
    return AdamW8bit(groups, weight_decay=weight_decay, min_8bit_size=SMALLEST_IN_8_BITS)


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, float]]:
    """What a log line tells of the rates, by group: as scheduled, and what Prodigy makes of it."""
    groups = optimizer.param_groups
    # Schedule-free warms up by itself; "lr" is then its peak.
    rates = {g["name"]: g.get("scheduled_lr", g["lr"]) * g.get("share", 1) for g in groups}
    found = {g["name"]: rates[g["name"]] * g["d"] for g in groups if "share" in g}
    return {"learning_rate": rates} | ({"effective_learning_rate": found} if found else {})


def release(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let go of weights that are trained no more: nothing moves them, no moments are kept."""
    gone = {id(parameter) for parameter in parameters}
    for group in optimizer.param_groups:
        if "share" in group or not any(id(parameter) in gone for parameter in group["params"]):
            continue  # Prodigy's estimate of the rate still needs what it knows of them.
        for parameter in group["params"]:
            optimizer.state.pop(parameter, None)
        for name in group.get("names", ()):  # LoRA-FA goes by names.
            optimizer.state.pop(name[: name.find("lora")] + "lora", None)
        for key in group.keys() & {"names", "scaling_factors"}:
            group[key] = []


def one_group(
    part: str, module: nn.Module, rate: float, weight_decay: float, ratio: float
) -> list[dict[str, Any]]:
    """Give one group with all that is trained in a part."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [{"name": part, "params": trained, "lr": rate}]


def vblora_groups(
    part: str, module: nn.Module, rate: float, weight_decay: float, ratio: float
) -> list[dict[str, Any]]:
    """Give VB-LoRA's groups of one part: the bank learns at a share of the part's rate."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    bank = [p for name, p in named if "vblora_vector_bank" in name.split(".")]
    rest = [p for name, p in named if "vblora_vector_bank" not in name.split(".")]
    groups: list[dict[str, Any]] = [{"name": part, "params": rest, "lr": rate}]
    if bank:
        groups.append({"name": f"{part} bank", "params": bank, "lr": rate * VB_BANK_SHARE})
    return groups


def lora_plus_groups(
    part: str, module: nn.Module, rate: float, weight_decay: float, ratio: float
) -> list[dict[str, Any]]:
    """Give PEFT's groups of one part: `down` at the part's rate, `up` at `ratio` times it."""
    optimizer = create_loraplus_optimizer(
        module,  # pyright: ignore[reportArgumentType]: any module does
        torch.optim.AdamW,
        lr=rate,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=weight_decay,
    )
    names = {rate: part, rate * ratio: f"{part} up"}
    return [
        {
            "name": names[group["lr"]],
            "params": group["params"],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
        if group["params"]
    ]


def lora_fa(
    parts: dict[str, nn.Module],
    rates: dict[str, float],
    weight_decay: float,
    more: Sequence[dict[str, Any]],
) -> torch.optim.Optimizer:
    """Make PEFT's LoRA-FA optimizer over all parts.

    Its state goes by names, so names carry the part.
    """
    groups, optimizer = [], None
    for part, module in parts.items():
        config: Any = module.peft_config["default"]  # pyright: ignore
        whole = nn.Module()
        whole.add_module(part, module)
        whole.active_adapters = ["default"]  # pyright: ignore
        whole.peft_config = {"default": config}  # pyright: ignore
        optimizer = create_lorafa_optimizer(
            whole,  # pyright: ignore[reportArgumentType]: all that it reads of a PeftModel
            r=config.r,
            lora_alpha=config.lora_alpha,
            lr=rates[part],
            weight_decay=weight_decay,
        )
        (group,) = optimizer.param_groups
        # The base's weights and the biases are no business of an optimizer that a checkpoint holds.
        own = [i for i, name in enumerate(group["names"]) if ".lora_" in name]
        for key in ("params", "names", "scaling_factors"):
            group[key] = [group[key][i] for i in own]
        del group["scaling_factor"]
        groups.append({**group, "name": part})
    assert optimizer is not None
    for group in more:
        names = [f"{group['name']}.{number}" for number in range(len(group["params"]))]
        own = {"names": names, "scaling_factors": [1.0] * len(names)}
        groups.append({**groups[0], **group, **own})
    optimizer.param_groups = groups

    def follow(loaded: torch.optim.Optimizer) -> None:
        """Torch moves restored state only where it goes by parameter."""
        devices = {
            n: p.device
            for g in loaded.param_groups
            for n, p in zip(g["names"], g["params"], strict=True)
        }
        for name, state in loaded.state.items():
            device = next(d for n, d in devices.items() if n == name or n.startswith(f"{name}_"))
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = value.to(device)

    optimizer.register_load_state_dict_post_hook(follow)
    return optimizer
