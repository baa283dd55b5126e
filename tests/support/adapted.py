"""NoRA on the test families: models whose adapters are far from their start."""

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from nora_studio.adapters.methods.attachment import adapter_parameters
from nora_studio.nora import NoraConfig, NoraLinear
from support.families import FAMILIES, make


def config_for(family: str, rank: int = 4, outer_rank: int = 16, **settings) -> NoraConfig:
    settings.setdefault("target_modules", list(FAMILIES[family].targets))
    return NoraConfig(r=rank, outer_rank=outer_rank, **settings)


def run(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return FAMILIES[family].run(model)


def move(model: nn.Module, adapter_name: str = "default", seed: int = 7) -> None:
    """Move an adapter as if trained: every layer, visibly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "nora_inner" in name and name.endswith(f".{adapter_name}"):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += (0.3 * noise).to(parameter)


def adapted(family: str, dtype: torch.dtype = torch.float32, **settings) -> PeftModel:
    model = get_peft_model(make(FAMILIES[family], dtype=dtype), config_for(family, **settings))
    move(model)
    return model


def layers_of(model: nn.Module) -> dict[str, NoraLinear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NoraLinear)}


OPTIMIZERS = ("adamw", "adamw8bit", "prodigy", "schedule-free", "adafactor", "lion")


def weights(parts: dict[str, nn.Module]) -> list[torch.Tensor]:
    found = [p for module in parts.values() for p in adapter_parameters(module).values()]
    return [p.detach().clone() for p in found]
