"""Step rules of the methods that have some: DyLoRA and AdaLoRA."""

import copy
from typing import Any

import torch
from peft.tuners.adalora import RankAllocator
from torch import Tensor, nn

from nora_studio.adapters.methods.peft_tuners import rebuild_tuner
from nora_studio.adapters.methods.step_rules import PlainSteps
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.adapters.tuners import sample_rank


class DyloraSteps(PlainSteps):
    """DyLoRA's rules: a rank sampled for each step, the same in all parts and on all processes."""

    def __init__(self, parts: dict[str, nn.Module], seed: int) -> None:
        self.parts = parts
        self.generator = torch.Generator().manual_seed(seed)

    def before_step(self, step: int) -> None:
        """Sample the step's rank."""
        # The generator advances once a step: every part samples from the same state of it.
        state = self.generator.get_state()
        for module in self.parts.values():
            self.generator.set_state(state)
            sample_rank(module, self.generator, ADAPTER_NAME)

    def state(self) -> dict[str, Tensor]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the generator's state."""
        self.generator.set_state(state["generator"])


class AdaloraSteps(PlainSteps):
    """AdaLoRA's rules: ranks are pruned by importance, and factors kept near orthogonal.

    They use PEFT's `update_and_allocate` and allocator, one for each part. Pruned ranks are masked
    with zeros and not cut out, so the saved file has the shapes that were attached.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        self.parts = parts
        self.tuners: dict[str, Any] = {}
        for part, module in parts.items():
            tuner: Any = rebuild_tuner(module, ADAPTER_NAME)
            # A copy: the allocation must not get into the config that is saved.
            config = copy.copy(tuner.peft_config[ADAPTER_NAME])
            tuner.peft_config = {ADAPTER_NAME: config}
            tuner.trainable_adapter_name = ADAPTER_NAME
            tuner.rankallocator = RankAllocator(module, config, ADAPTER_NAME)
            self.tuners[part] = tuner

    def after_step(self, step: int) -> None:
        """Update the importance of all ranks, and prune as scheduled."""
        for part, tuner in self.tuners.items():
            if not any(parameter.requires_grad for parameter in self.parts[part].parameters()):
                continue  # The part is no longer trained, so its ranks stay as they are.
            for parameter in self.parts[part].parameters():
                if parameter.grad is not None:
                    # A float16 step that overflowed was skipped; it must not count.
                    torch.nan_to_num_(parameter.grad, 0.0, 0.0, 0.0)
            tuner.update_and_allocate(step)

    def penalty(self) -> Tensor | None:
        """Return PEFT's loss: the weighted mean distance of the Gram matrices from the identity."""
        distances, weight, frozen = [], 0.0, 0
        for part, module in self.parts.items():
            weight = self.tuners[part].peft_config[ADAPTER_NAME].orth_reg_weight
            for name, factor in module.named_parameters():
                pieces = name.split(".")
                if "lora_A" in pieces or "lora_B" in pieces:
                    if not factor.requires_grad:  # It gets no gradient, but counts in the mean.
                        frozen += 1
                        continue
                    gram = factor @ factor.T if "lora_A" in pieces else factor.T @ factor
                    eye = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
                    distances.append(torch.linalg.matrix_norm(gram - eye))
        kept = len(distances) / (len(distances) + frozen)
        return weight * torch.stack(distances).mean() * kept

    def state(self) -> dict[str, Tensor]:
        """Return the allocators' scores and the ranks that are left."""
        found: dict[str, Tensor] = {}
        for part, tuner in self.tuners.items():
            allocator = tuner.rankallocator
            for kind in _SCORES:
                for name, scores in getattr(allocator, kind).items():
                    found[f"{part}.{kind}.{name}"] = scores.detach().cpu()
            pattern = tuner.peft_config[ADAPTER_NAME].rank_pattern or {}
            for name, kept in pattern.items():
                found[f"{part}.{_PATTERN}.{name}"] = torch.tensor(kept)
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Set the allocators' scores and the ranks that are left."""
        for part, module in self.parts.items():
            tuner, parameters = self.tuners[part], dict(module.named_parameters())
            for kind in _SCORES:
                scores = with_prefix(state, f"{part}.{kind}.")
                moved = {name: value.to(parameters[name].device) for name, value in scores.items()}
                setattr(tuner.rankallocator, kind, moved)
            pattern = with_prefix(state, f"{part}.{_PATTERN}.")
            kept = {name: value.tolist() for name, value in pattern.items()}
            tuner.peft_config[ADAPTER_NAME].rank_pattern = kept or None


_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
