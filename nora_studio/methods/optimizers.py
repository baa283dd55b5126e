"""One optimizer for an adapter on several parts, as its method wants it."""

from typing import Any

import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn

LORA_PLUS_RATIO = 16.0
"""LoRA+ (arXiv:2402.12354): how many times faster the output side learns; the paper's 2^4."""
VB_BANK_SHARE = 0.1
"""VB-LoRA: the bank's share of the rate, as in PEFT's guide (logits 1e-2, bank 1e-3)."""


def make_optimizer(
    method: str,
    parts: dict[str, nn.Module],
    rates: dict[str, float],
    weight_decay: float,
    lora_plus_ratio: float = LORA_PLUS_RATIO,
) -> torch.optim.Optimizer:
    """AdamW over the trained weights, or the method's own; a group or two for each part.

    Args:
        method: A name in `METHODS`.
        parts: Adapted modules by part name.
        rates: Peak learning rate of each part.
        weight_decay: Decoupled.
        lora_plus_ratio: For lora+ alone.

    Returns:
        An optimizer whose groups carry their part's "name".
    """
    if method == "lora-fa":
        return _lora_fa(parts, rates, weight_decay)
    groups = []
    for part, module in parts.items():
        rate = rates[part]
        if method == "lora+":
            groups += _lora_plus_groups(part, module, rate, weight_decay, lora_plus_ratio)
            continue
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        bank = [p for name, p in named if "vblora_vector_bank" in name.split(".")]
        rest = [p for name, p in named if "vblora_vector_bank" not in name.split(".")]
        groups.append({"name": part, "params": rest, "lr": rate})
        if bank:
            groups.append({"name": f"{part} bank", "params": bank, "lr": rate * VB_BANK_SHARE})
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def _lora_plus_groups(
    part: str, module: nn.Module, rate: float, weight_decay: float, ratio: float
) -> list[dict[str, object]]:
    """PEFT's groups for one part: `down` at the part's rate, `up` at `ratio` times it."""
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


def _lora_fa(
    parts: dict[str, nn.Module], rates: dict[str, float], weight_decay: float
) -> torch.optim.Optimizer:
    """PEFT's LoRA-FA optimizer over all parts; its state goes by names, so names carry the part."""
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
    optimizer.param_groups = groups

    def follow(loaded: torch.optim.Optimizer) -> None:
        """Torch moves restored state only where it goes by parameter."""
        devices = {
            n: p.device for g in loaded.param_groups for n, p in zip(g["names"], g["params"])
        }
        for name, state in loaded.state.items():
            device = next(d for n, d in devices.items() if n == name or n.startswith(f"{name}_"))
            for key, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[key] = value.to(device)

    optimizer.register_load_state_dict_post_hook(follow)
    return optimizer
