"""Parameter groups of the methods that have their own, and LoRA-FA's optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn

from nora_studio.adapters.methods.peft_tuners import adapter_config

LORA_PLUS_RATIO = 16.0
"""LoRA+ (arXiv:2402.12354): rate of the output-side factor over that of the input side; the
paper's 2^4."""
VB_BANK_SHARE = 0.1
"""VB-LoRA: rate of the bank over that of the logits, as in PEFT's guide (1e-3 and 1e-2)."""


def one_group(
    part: str, module: nn.Module, rate: float, _weight_decay: float, _ratio: float
) -> list[dict[str, Any]]:
    """Return one group with all trained weights of a part."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [{"name": part, "params": trained, "lr": rate}]


def vblora_groups(
    part: str, module: nn.Module, rate: float, _weight_decay: float, _ratio: float
) -> list[dict[str, Any]]:
    """Return VB-LoRA's groups of one part: the bank learns at a share of the part's rate."""
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
    """Return LoRA+'s groups of one part: `down` at the part's rate, `up` at `ratio` times it."""
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
    extra_groups: Sequence[dict[str, Any]],
) -> torch.optim.Optimizer:
    """Return PEFT's LoRA-FA optimizer over all parts.

    Its state has names as keys, so the names include the part.
    """
    groups, optimizer = [], None
    for part, module in parts.items():
        config = adapter_config(module, "default")
        whole = nn.Module()
        whole.add_module(part, module)
        whole.active_adapters = ["default"]  # pyright: ignore
        whole.peft_config = {"default": config}  # pyright: ignore
        optimizer = create_lorafa_optimizer(
            whole,  # pyright: ignore[reportArgumentType]: it has the attributes that are read
            r=config.r,
            lora_alpha=config.lora_alpha,
            lr=rates[part],
            weight_decay=weight_decay,
        )
        (group,) = optimizer.param_groups
        # A checkpoint holds the optimizer, so the base's weights and biases are left out of it.
        own = [i for i, name in enumerate(group["names"]) if ".lora_" in name]
        for key in ("params", "names", "scaling_factors"):
            group[key] = [group[key][i] for i in own]
        del group["scaling_factor"]
        groups.append({**group, "name": part})
    assert optimizer is not None
    for group in extra_groups:
        names = [f"{group['name']}.{number}" for number in range(len(group["params"]))]
        own = {"names": names, "scaling_factors": [1.0] * len(names)}
        groups.append({**groups[0], **group, **own})
    optimizer.param_groups = groups

    def move_to_devices(loaded: torch.optim.Optimizer) -> None:
        """Move restored state to its parameter's device; Torch does so only for parameter keys."""
        # A checkpoint in which text encoders are frozen has no names left for their parameters.
        devices = {
            n: p.device
            for g in loaded.param_groups
            for n, p in zip(g["names"], g["params"], strict=False)
        }
        for name, state in loaded.state.items():
            device = next(d for n, d in devices.items() if n == name or n.startswith(f"{name}_"))
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = value.to(device)

    optimizer.register_load_state_dict_post_hook(move_to_devices)
    return optimizer
