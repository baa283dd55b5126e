"""Three real model families at test size: SDXL's UNet, CLIP's text encoder, a Llama."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, LlamaConfig, LlamaForCausalLM

from support.any_module import AnyModule
from support.tiny import tiny_text_config, tiny_tokenizer, tiny_unet


@dataclass(frozen=True)
class Family:
    """How to build a model, what to adapt in it, and how to run it."""

    build: Callable[[], AnyModule]
    targets: tuple[str, ...]
    run: Callable[[nn.Module], Tensor]


def make(family: Family, seed: int = 0, dtype: torch.dtype = torch.float32) -> AnyModule:
    """Build a frozen model in evaluation mode; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.build()
    # Transformers starts near zero, where an adapter's effect would drown in rounding.
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= 0.15 / module.weight.data.std()
    return model.requires_grad_(False).eval().to(dtype)


def train(family: Family, model: nn.Module, steps: int = 3) -> list[float]:
    """Fit a fixed random target with Adam; return the loss before every step and after the last."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=2e-3)
    generator = torch.Generator().manual_seed(5)
    goal = torch.randn(family.run(model).shape, generator=generator)
    losses = []
    for _ in range(steps):
        loss = (family.run(model).float() - goal).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [*losses, float((family.run(model).float() - goal).square().mean())]


def _noise(model: nn.Module, *shape: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(next(model.parameters()).dtype)


def _run_unet(model: nn.Module) -> Tensor:
    conditions = {
        "text_embeds": _noise(model, 2, 32, seed=8),
        "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]] * 2).to(_noise(model, 1)),
    }
    text = _noise(model, 2, 7, 64, seed=4)
    latents = _noise(model, 2, 4, 4, 4)
    return model(latents, torch.tensor([10, 700]), text, added_cond_kwargs=conditions).sample


_TOKENS = torch.tensor([[1, 5, 9, 33, 40, 7, 2, 2]])

FAMILIES = {
    "unet": Family(tiny_unet, ("to_q", "to_k", "to_v", "to_out.0"), _run_unet),
    "clip": Family(
        lambda: CLIPTextModel(tiny_text_config(tiny_tokenizer())),
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        lambda model: model(_TOKENS).last_hidden_state,
    ),
    "llama": Family(
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ),
        ("q_proj", "v_proj", "up_proj", "down_proj"),
        lambda model: model(_TOKENS).logits,
    ),
}
