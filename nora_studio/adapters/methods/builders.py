"""Functions of the records in the table: configurations, step rules, groups, optimizers.

PEFT takes about ten seconds to import, so each function imports what it needs when it is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nora_studio.adapters.methods.spec import AdapterSpec, Shape
from nora_studio.errors import StudioError

if TYPE_CHECKING:
    from peft.config import PeftConfig
    from torch import nn
    from torch.optim import Optimizer

    from nora_studio.adapters.methods.step_rules import StepRules, StepTensors

Build = Callable[[AdapterSpec, list[str], list[Shape]], "PeftConfig"]
"""The type of `Method.build`."""

VB_BANK = 256
"""VB-LoRA: number of vectors in the bank, PEFT's default; each piece of a factor mixes two."""
VB_LONGEST = 256
"""VB-LoRA: largest length of a vector, the paper's for language models."""


def alpha_of(spec: AdapterSpec, usual: float) -> int:
    """Return the spec's alpha, or the usual one."""
    # PEFT accepts any number; only its annotations say int.
    return usual if spec.alpha is None else spec.alpha  # pyright: ignore[reportReturnType]


def lora(use_rslora: bool = False, use_dora: bool = False) -> Build:
    """Return the builder of PEFT's LoRA, plain or as one of its variants."""

    def build(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
        from peft import LoraConfig
        from torch import nn

        from nora_studio.adapters.tuners.lora import fused_layer

        config = LoraConfig(
            r=spec.rank,
            lora_alpha=alpha_of(spec, spec.rank),
            lora_dropout=spec.dropout,
            target_modules=targets,
            use_rslora=use_rslora,
            use_dora=use_dora,
        )
        if not use_dora:
            # PEFT's way to choose a layer of one's own; it is not part of the saved configuration.
            config._register_custom_module({nn.Linear: fused_layer})  # pyright: ignore
        return config

    return build


def nora_products(modules: Iterable[nn.Module]) -> StepTensors:
    """Return the products of NoRA's layers, to be formed for each step."""
    from nora_studio.nora.products import NoraProducts

    return NoraProducts(modules)


def lora_factors(modules: Iterable[nn.Module]) -> StepTensors:
    """Return the factors of LoRA's layers, to be converted for each step."""
    from nora_studio.adapters.tuners.lora import LoraFactors

    return LoraFactors(modules)


def adalora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's AdaLoRA for the steps of the run.

    Raises:
        StudioError: the spec has no number of steps.
    """
    from peft import AdaLoraConfig

    if spec.total_steps is None or spec.total_steps < 1:
        raise StudioError(
            "adalora allocates ranks over the whole run: total_steps must be 1 or more; got "
            f"{spec.total_steps}. Give the number of training steps."
        )
    steps = spec.total_steps
    # The rank starts at 1.5 times its final value, as in the paper's runs; a tenth of the run warms
    # up, the last three tenths train at the final ranks.
    start = math.ceil(1.5 * spec.rank)
    return AdaLoraConfig(
        target_r=spec.rank,
        init_r=start,
        tinit=steps // 10,
        tfinal=steps * 3 // 10,
        deltaT=max(1, steps // 100),
        total_step=steps,
        orth_reg_weight=0.1,
        # PEFT divides by the starting rank, so this makes the scale alpha / rank.
        lora_alpha=alpha_of(spec, spec.rank) * start / spec.rank,  # pyright: ignore
        lora_dropout=spec.dropout,
        target_modules=targets,
    )


def loha(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's LoHa."""
    from peft import LoHaConfig

    return LoHaConfig(r=spec.rank, alpha=alpha_of(spec, spec.rank), target_modules=targets)


def lokr(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's LoKr."""
    from peft import LoKrConfig

    return LoKrConfig(r=spec.rank, alpha=alpha_of(spec, spec.rank), target_modules=targets)


def vera(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's VeRA."""
    from peft import VeraConfig

    return VeraConfig(r=spec.rank, vera_dropout=spec.dropout, target_modules=targets)


def vblora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's VB-LoRA with the longest vectors that divide every side."""
    from peft import VBLoRAConfig

    common = math.gcd(*(side for shape in shapes for side in shape))
    length = max(n for n in range(1, min(common, VB_LONGEST) + 1) if common % n == 0)
    return VBLoRAConfig(
        r=spec.rank,
        num_vectors=VB_BANK,
        vector_length=length,
        vblora_dropout=spec.dropout,
        target_modules=targets,
    )


def oft(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's OFT; the rank is the size of a block."""
    from peft import OFTConfig

    return OFTConfig(r=0, oft_block_size=spec.rank, target_modules=targets)


def oft_fits(spec: AdapterSpec, name: str, shape: Shape) -> None:
    """Refuse a block size that does not divide the inputs of a layer.

    Raises:
        StudioError: the block size does not divide the inputs, or is 1.
    """
    inputs = shape[1]
    if spec.rank < 2 or inputs % spec.rank:
        good = ", ".join(str(n) for n in range(2, min(inputs, 128) + 1) if inputs % n == 0)
        raise StudioError(
            f"oft rotates the inputs in blocks, whose size (rank) must divide the {inputs} inputs "
            f"of {name}; got {spec.rank}. Sizes that do: {good or inputs}."
        )


def randlora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure PEFT's RandLoRA."""
    from peft import RandLoraConfig

    return RandLoraConfig(
        r=spec.rank,
        randlora_alpha=alpha_of(spec, 20 * spec.rank),  # PEFT's own ratio
        randlora_dropout=spec.dropout,
        target_modules=targets,
    )


def accept_any_rank(spec: AdapterSpec, name: str, shape: Shape) -> None:
    """Accept every rank: VeRA's frozen random factors may be larger than a weight."""


def project_tuner(name: str, **more: Any) -> Build:
    """Return the builder of one of this project's tuners.

    Args:
        name: Name of the configuration class in `adapters.tuners`.
        more: Further settings of that configuration.
    """

    def build(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
        from nora_studio.adapters import tuners

        config: type[PeftConfig] = getattr(tuners, name)
        common: dict[str, Any] = {"r": spec.rank, "alpha": spec.alpha, "dropout": spec.dropout}
        return config(**common, target_modules=targets, **more)  # pyright: ignore

    return build


def nora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    """Configure NoRA."""
    from nora_studio.nora import NoraConfig

    return NoraConfig(
        r=spec.rank,
        outer_rank=64 if spec.outer_rank is None else spec.outer_rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        start=spec.start,
        outer=spec.outer,
        mean_abs_inputs=spec.mean_abs_inputs,
        find_outer=spec.find_outer,
        target_modules=targets,
    )


def adalora_step_rules(parts: dict[str, nn.Module], seed: int) -> StepRules:
    """Return AdaLoRA's step rules, which allocate ranks; they need no seed."""
    from nora_studio.adapters.methods.steps import AdaloraSteps

    return AdaloraSteps(parts)


def dylora_step_rules(parts: dict[str, nn.Module], seed: int) -> StepRules:
    """Return DyLoRA's step rules, which sample ranks."""
    from nora_studio.adapters.methods.steps import DyloraSteps

    return DyloraSteps(parts, seed)


def lora_plus_groups(*settings: Any) -> list[dict[str, Any]]:
    """Return LoRA+'s two parameter groups of one part; the arguments are `Method.groups`'."""
    from nora_studio.adapters.methods import parameter_groups

    return parameter_groups.lora_plus_groups(*settings)


def vblora_groups(*settings: Any) -> list[dict[str, Any]]:
    """Return VB-LoRA's two parameter groups of one part; the arguments are `Method.groups`'."""
    from nora_studio.adapters.methods import parameter_groups

    return parameter_groups.vblora_groups(*settings)


def lora_fa_optimizer(*settings: Any) -> Optimizer:
    """Return LoRA-FA's own optimizer; the arguments are `Method.optimizer`'s."""
    from nora_studio.adapters.methods import parameter_groups

    return parameter_groups.lora_fa(*settings)


def measure_magnitudes(model: nn.Module, adapter_name: str) -> None:
    """Recompute DoRA's magnitudes once the adapter is on the model."""
    from nora_studio.adapters.methods import peft_tuners

    peft_tuners.measure_magnitudes(model, adapter_name)
