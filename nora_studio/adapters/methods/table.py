"""The table of adapter methods. A new method is one entry: whatever PEFT knows can stand there.

It can be read without PEFT, which takes about ten seconds to import: each entry imports what it
builds when it builds it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from nora_studio.adapters.methods.spec import AdapterSpec, Method, Shape
from nora_studio.errors import StudioError

if TYPE_CHECKING:
    from peft.config import PeftConfig

    from nora_studio.adapters.tuners import DyloraConfig, LoraXsConfig, TiedLoraConfig

VB_BANK = 256
"""VB-LoRA: vectors in the bank, PEFT's default; two of them make each piece of a factor."""
VB_LONGEST = 256
"""VB-LoRA: the longest vectors, as the paper uses for language models."""


def _alpha(spec: AdapterSpec, usual: float) -> int:
    # PEFT reads a scale from any number; its annotations alone say int.
    return usual if spec.alpha is None else spec.alpha  # pyright: ignore[reportReturnType]


def _lora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=spec.rank,
        lora_alpha=_alpha(spec, spec.rank),
        lora_dropout=spec.dropout,
        target_modules=targets,
        use_rslora=spec.method == "rslora",
        use_dora=spec.method == "dora",
    )


def _adalora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import AdaLoraConfig

    if spec.total_steps is None or spec.total_steps < 1:
        raise StudioError(
            "adalora allots ranks over the whole run: total_steps must be 1 or more; got "
            f"{spec.total_steps}. Give the number of training steps."
        )
    steps = spec.total_steps
    # Begins half as large again as it ends, as in the paper's runs; a tenth of the run warms up,
    # the last three tenths train at the final ranks.
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
        lora_alpha=_alpha(spec, spec.rank) * start / spec.rank,  # pyright: ignore
        lora_dropout=spec.dropout,
        target_modules=targets,
    )


def _loha(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import LoHaConfig

    return LoHaConfig(r=spec.rank, alpha=_alpha(spec, spec.rank), target_modules=targets)


def _lokr(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import LoKrConfig

    return LoKrConfig(r=spec.rank, alpha=_alpha(spec, spec.rank), target_modules=targets)


def _vera(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import VeraConfig

    return VeraConfig(r=spec.rank, vera_dropout=spec.dropout, target_modules=targets)


def _vblora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
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


def _oft(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import OFTConfig

    return OFTConfig(r=0, oft_block_size=spec.rank, target_modules=targets)


def _oft_fits(spec: AdapterSpec, name: str, shape: Shape) -> None:
    inputs = shape[1]
    if spec.rank < 2 or inputs % spec.rank:
        good = ", ".join(str(n) for n in range(2, min(inputs, 128) + 1) if inputs % n == 0)
        raise StudioError(
            f"oft rotates the inputs in blocks, whose size (rank) must divide the {inputs} inputs "
            f"of {name}; got {spec.rank}. Sizes that do: {good or inputs}."
        )


def _randlora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from peft import RandLoraConfig

    return RandLoraConfig(
        r=spec.rank,
        randlora_alpha=_alpha(spec, 20 * spec.rank),  # PEFT's own ratio
        randlora_dropout=spec.dropout,
        target_modules=targets,
    )


def _any_rank(spec: AdapterSpec, name: str, shape: Shape) -> None:
    """VeRA's frozen random factors may be wider than a weight."""


def _decomposed(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from nora_studio.adapters.tuners import DecomposedConfig

    return DecomposedConfig(
        r=spec.rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        target_modules=targets,
        start=spec.method,
    )


def _ours(name: str) -> Callable[[AdapterSpec, list[str], list[Shape]], PeftConfig]:
    """A method of our own tuners that has no settings of its own, by its config's name."""

    def build(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
        from nora_studio.adapters import tuners

        config: type[LoraXsConfig | DyloraConfig | TiedLoraConfig] = getattr(tuners, name)
        return config(r=spec.rank, alpha=spec.alpha, dropout=spec.dropout, target_modules=targets)

    return build


def _nora(spec: AdapterSpec, targets: list[str], shapes: list[Shape]) -> PeftConfig:
    from nora_studio.nora import NoraConfig

    return NoraConfig(
        r=spec.rank,
        outer_rank=64 if spec.outer_rank is None else spec.outer_rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        start=spec.start,
        outer=spec.outer,
        mean_abs_inputs=spec.mean_abs_inputs,
        target_modules=targets,
    )


_RANK = "width of the two trained factors"
_DECOMPOSED = frozenset({"decomposed_lora_up", "decomposed_lora_down"})

METHODS: dict[str, Method] = {
    "nora": Method(
        "NoRA: trained factors nested in singular vectors",
        "2408.10280", "inner rank, within outer_rank", "ours", _nora,
        settings=frozenset(
            {"alpha", "dropout", "outer_rank", "start", "outer", "mean_abs_inputs"}
        ),
        decays_to_start=frozenset({"nora_inner_up", "nora_inner_down"}),
    ),
    "lora": Method("LoRA: two trained low-rank factors", "2106.09685", _RANK, "PEFT", _lora),
    "lora+": Method(
        "LoRA+: the output-side factor learns 16 times faster",
        "2402.12354", _RANK, "PEFT", _lora,
    ),
    "lora-fa": Method(
        "LoRA-FA: the input-side factor stays as drawn",
        "2308.03303", _RANK, "PEFT", _lora,
    ),
    "rslora": Method(
        "rsLoRA: scaled by 1 / sqrt(rank), for high ranks", "2312.03732", _RANK, "PEFT", _lora
    ),
    "dora": Method(
        "DoRA: LoRA for directions, a vector for magnitudes",
        "2402.09353", _RANK, "PEFT", _lora,
        decays_to_start=frozenset({"lora_magnitude_vector"}),
    ),
    "pissa": Method(
        "PiSSA: LoRA from the leading singular vectors",
        "2404.02948", _RANK, "ours", _decomposed,
        decays_to_start=_DECOMPOSED,
    ),
    "olora": Method(
        "OLoRA: LoRA from a QR decomposition",
        "2406.01775", _RANK, "ours", _decomposed,
        decays_to_start=_DECOMPOSED,
    ),
    "lora-xs": Method(
        "LoRA-XS: one small matrix between singular vectors",
        "2405.17604", "side of the trained matrix", "ours", _ours("LoraXsConfig"),
        decays_to_start=frozenset({"lora_xs_inner"}),
    ),
    "dylora": Method(
        "DyLoRA: serves at every rank up to its own",
        "2210.07558", "highest rank", "ours", _ours("DyloraConfig"),
    ),
    "tied-lora": Method(
        "Tied-LoRA: one pair for all layers of a kind",
        "2311.09578", "width of the shared factors", "ours", _ours("TiedLoraConfig"),
    ),
    "adalora": Method(
        "AdaLoRA: ranks move to where they matter",
        "2303.10512", "mean rank at the end; half as much again at first", "PEFT", _adalora,
        settings=frozenset({"alpha", "dropout", "total_steps"}), several=False,
    ),
    "lokr": Method(
        "LoKr: a Kronecker product, one side low-rank",
        "2309.14859", "width of the low-rank side", "PEFT", _lokr,
        settings=frozenset({"alpha"}),
    ),
    "loha": Method(
        "LoHa: two low-rank products, multiplied elementwise",
        "2108.06098", "width of each of the two pairs", "PEFT", _loha,
        settings=frozenset({"alpha"}),
    ),
    "vera": Method(
        "VeRA: scalings around one random pair for all layers",
        "2310.11454", "width of the frozen pair", "PEFT", _vera,
        settings=frozenset({"dropout"}), several=False, fits=_any_rank,
    ),
    "vblora": Method(
        "VB-LoRA: factors composed from one bank of vectors",
        "2405.15179", _RANK, "PEFT", _vblora, settings=frozenset({"dropout"}), several=False,
        decays_to_start=frozenset(
            {"vblora_logits_A", "vblora_logits_B", "vblora_vector_bank"}
        ),
    ),
    "randlora": Method(
        "RandLoRA: full rank, by scalings of random pairs",
        "2502.00987", "width of each frozen pair", "PEFT", _randlora, several=False,
    ),
    "oft": Method(
        "OFT: inputs turned by a rotation, block by block",
        "2306.07280", "size of a block, which must divide the inputs", "PEFT", _oft,
        settings=frozenset(), fits=_oft_fits,
    ),
}  # fmt: skip
"""Every method by the name that `--method` takes, NoRA and LoRA's kin first."""

METHOD_NAMES = {"lora": "LoRA", "nora": "NoRA"}
"""How the two are written out; others are called by the name that `--method` takes."""


def method_named(name: str) -> Method:
    """Look a method up.

    Raises:
        StudioError: there is none of that name; the nearest is told.
    """
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise StudioError(f"method must be one of {', '.join(METHODS)}; got {name!r}.{hint}")
    return METHODS[name]
