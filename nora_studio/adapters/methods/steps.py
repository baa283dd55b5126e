"""What a method does around each training step, besides the optimizer's own work."""

import copy
from typing import Any, Protocol

import torch
from peft.tuners.adalora import RankAllocator
from torch import Tensor, nn

from nora_studio.adapters.methods.injection import tuner_of
from nora_studio.adapters.methods.table import METHODS
from nora_studio.adapters.peft_names import ADAPTER_NAME
from nora_studio.adapters.tuners import draw_rank


class StepRules(Protocol):
    """Called by the training loop; a method without any has `PlainSteps`."""

    def before(self, step: int) -> None:
        """Before the forward pass of a step, counted from 1."""
        ...

    def after(self, step: int) -> None:
        """After the optimizer's step, the gradients still there."""
        ...

    def penalty(self) -> Tensor | None:
        """What the method adds to the loss (scalar); None: nothing."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on exactly where `state` was taken."""
        ...


class PlainSteps:
    """Nothing beside the optimizer."""

    def before(self, step: int) -> None: ...

    def after(self, step: int) -> None: ...

    def penalty(self) -> Tensor | None:
        return None

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None: ...


class DyloraSteps(PlainSteps):
    """DyLoRA: a rank drawn for each step, the same in every part and on every process."""

    def __init__(self, parts: dict[str, nn.Module], seed: int) -> None:
        self.parts = parts
        self.generator = torch.Generator().manual_seed(seed)

    def before(self, step: int) -> None:
        # One draw from the generator a step: each part takes it from a copy of the same state.
        state = self.generator.get_state()
        for module in self.parts.values():
            self.generator.set_state(state)
            draw_rank(module, self.generator, ADAPTER_NAME)

    def state(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.generator.set_state(state["generator"])


class AdaloraSteps(PlainSteps):
    """AdaLoRA: sensitivities after each step, ranks taken away by them, and the orthogonality loss.

    PEFT's own `update_and_allocate` and allocator, one for each part. What is taken away is masked
    with zeros and not cut out, so the saved file has the shapes that were attached.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        self.parts = parts
        self.tuners: dict[str, Any] = {}
        for part, module in parts.items():
            tuner: Any = tuner_of(module, ADAPTER_NAME)
            # Of its own: the allocation must not get into the config that is saved.
            config = copy.copy(tuner.peft_config[ADAPTER_NAME])
            tuner.peft_config = {ADAPTER_NAME: config}
            tuner.trainable_adapter_name = ADAPTER_NAME
            tuner.rankallocator = RankAllocator(module, config, ADAPTER_NAME)
            self.tuners[part] = tuner

    def after(self, step: int) -> None:
        for part, tuner in self.tuners.items():
            if not any(parameter.requires_grad for parameter in self.parts[part].parameters()):
                continue  # Trained no more: its ranks stay as they are, too.
            for parameter in self.parts[part].parameters():
                if parameter.grad is not None:
                    # A float16 step that overflowed was skipped; it says nothing of importance.
                    torch.nan_to_num_(parameter.grad, 0.0, 0.0, 0.0)
            tuner.update_and_allocate(step)

    def penalty(self) -> Tensor | None:
        """Mean distance of the factors' Gram matrices from the identity, weighted, as PEFT's."""
        distances, weight, settled = [], 0.0, 0
        for part, module in self.parts.items():
            weight = self.tuners[part].peft_config[ADAPTER_NAME].orth_reg_weight
            for name, factor in module.named_parameters():
                pieces = name.split(".")
                if "lora_A" in pieces or "lora_B" in pieces:
                    if not factor.requires_grad:  # No gradient to give, but its share in the mean.
                        settled += 1
                        continue
                    gram = factor @ factor.T if "lora_A" in pieces else factor.T @ factor
                    eye = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
                    distances.append(torch.linalg.matrix_norm(gram - eye))
        kept = len(distances) / (len(distances) + settled)
        return weight * torch.stack(distances).mean() * kept

    def state(self) -> dict[str, Tensor]:
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
        for part, module in self.parts.items():
            tuner, parameters = self.tuners[part], dict(module.named_parameters())
            for kind in _SCORES:
                scores = under(state, f"{part}.{kind}.")
                moved = {name: value.to(parameters[name].device) for name, value in scores.items()}
                setattr(tuner.rankallocator, kind, moved)
            pattern = under(state, f"{part}.{_PATTERN}.")
            kept = {name: value.tolist() for name, value in pattern.items()}
            tuner.peft_config[ADAPTER_NAME].rank_pattern = kept or None


_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_PATTERN = "rank_pattern"


def under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def with_penalty(loss: Tensor, rules: StepRules) -> Tensor:
    """A loss that carries the gradient of the method's penalty, but not its value.

    The last line of every task's step: what the log shows stays comparable between methods.
    """
    penalty = rules.penalty()
    return loss if penalty is None else loss + (penalty - penalty.detach())


def step_rules(method: str, parts: dict[str, nn.Module], seed: int) -> StepRules:
    """Give the rules of a method for its adapted parts.

    Args:
        method: A name in `METHODS`.
        parts: Adapted modules by part name.
        seed: Of what the rules draw.
    """
    return METHODS[method].steps(parts, seed)
