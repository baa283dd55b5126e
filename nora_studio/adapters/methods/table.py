"""The table of adapter methods. Adding one takes one record, for any method that PEFT knows.

Reading the table does not import PEFT, which would take about ten seconds (`builders`).

The rates for SDXL: NoRA's from its paper (section 4.3), LoRA's from the usual recipes; the others'
from their papers or PEFT's guides where the source says so (of other tasks), and otherwise starting
points. They are compared by how far the first step moves a weight, as a share of its largest
singular value (`methods.first_step`, on SDXL's attention shapes with entries of variance
1 / in_features and singular values falling as i^-0.3 to i^-0.5): LoRA's moves it by 0.06% to 0.14%,
NoRA's by 0.07% to 0.11%, a starting point by at most three times LoRA's. Where a factor starts at
zero and learns by products (AdaLoRA, LoHa, VeRA) the first step is small and says little.

For the embedded SDXL: `evaluation/sweep.py` measured NoRA and LoRA; the others' rates are scaled
like LoRA's and were only checked for a falling loss. Its short runs take far larger steps: LoRA's
and NoRA's first ones are 4% and 6% in the UNet. So small a UNet learns a subject far better with
its feed-forward layers adapted too.

For CLIP: CLIP-LoRA's from its paper (arXiv 2405.18541), NoRA's rates set to move the weights as far
as that does, the others on CLIP-LoRA's rank and scale. For the embedded CLIP, a thousandth of the
size and trained for a few hundred steps: three rates around what such small adapters train with,
the middle one first; `evaluation/table2.py` tries them on validation pictures, for every method
alike.

For language models: NoRA's sizes are those of its paper's Table 1, its rate the protocol's. The
other methods' follow from SDXL's by a rule (`tasks.commonsense.recommended`), except for three on
the embedded model, where all rates were only checked for a falling loss.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from nora_studio.adapters.methods import builders
from nora_studio.adapters.methods.spec import Method, TrainingDefaults, Tuner, UniformDefaults
from nora_studio.errors import StudioError

_RANK = "width of the two trained factors"
_DECOMPOSED = frozenset({"decomposed_lora_up", "decomposed_lora_down"})
_AS_LORA = "as LoRA's, which its paper keeps"
_FIRST_STEP = "moves a weight about as far as LoRA's"
# CLIP-LoRA scales by alpha / sqrt(rank); for methods that divide by the rank this is the same.
_CLIP_ALPHA = math.sqrt(2)
_CLIP = UniformDefaults(2, (2e-4,), _CLIP_ALPHA)
_EMBEDDED_CLIP = UniformDefaults(2, (1e-2, 3e-3, 3e-2), _CLIP_ALPHA)
# The authors' runs have 1e-2, 5e-3 and 1e-3, but their code multiplies the update by 1/614 and this
# one by 1. Adam's steps do not depend on a scale, so here the same rates would move the weights 614
# times as far: theirs correspond to 1.6e-5 and less. Measured by the first step on the shapes of
# ViT-B/16's q, k, v (768 and 512 wide, entries of variance 1 / width, singular values falling as
# i^-0.3 to i^-0.7), in shares of the largest singular value: CLIP-LoRA's 2e-4 moves a weight by
# 0.02% to 0.07%, NoRA's 1e-2 by 5% to 13%, and 5e-5 by 0.02% to 0.06%.
_NORA_CLIP_RATES = (5e-5, 1e-4, 2e-5)
_ANY_BITS, _FOUR_BITS = frozenset({8, 4}), frozenset({4})

METHODS: dict[str, Method] = {
    "nora": Method(
        "NoRA: trained factors nested in singular vectors",
        "2408.10280", "inner rank, within outer_rank", "ours", builders.nora,
        TrainingDefaults(8, 1e-4, 5e-5, "paper, section 4.3", outer_rank=64),
        TrainingDefaults(8, 3e-3, 1e-3, "sweep", outer_rank=48),
        clip=UniformDefaults(
            8, _NORA_CLIP_RATES, outer_rank=64, source="first step as CLIP-LoRA's"
        ),
        embedded_clip=UniformDefaults(8, (1e-2, 3e-3, 3e-2), outer_rank=32),
        llama=UniformDefaults(
            32, (3e-4,), outer_rank=704, source="paper, Table 1, at the protocol's rate"
        ),
        embedded_llama=UniformDefaults(16, (4e-3,), outer_rank=128),
        title="NoRA", bits=_ANY_BITS, tuner=Tuner("NORA"),
        settings=frozenset(
            {"alpha", "dropout", "outer_rank", "start", "outer", "mean_abs_inputs", "find_outer"}
        ),
        decays_to_start=frozenset({"nora_inner_up", "nora_inner_down"}),
        step_tensors=builders.nora_products,
    ),
    "lora": Method(
        "LoRA: two trained low-rank factors", "2106.09685", _RANK, "PEFT", builders.lora(),
        TrainingDefaults(16, 1e-4, 5e-5, "the usual recipe"),
        TrainingDefaults(8, 3e-3, 5e-4, "sweep"),
        title="LoRA", bits=_ANY_BITS, both_factors=True, step_tensors=builders.lora_factors,
    ),
    "lora+": Method(
        "LoRA+: the output-side factor learns 16 times faster",
        "2402.12354", _RANK, "PEFT", builders.lora(),
        TrainingDefaults(16, 5e-5, 2.5e-5, "paper's ratio 16, at half LoRA's rate"),
        TrainingDefaults(8, 5e-4, 1e-4),
        clip=_CLIP, embedded_clip=UniformDefaults(2, (3e-3, 1e-3, 1e-2), _CLIP_ALPHA),
        settings=frozenset({"alpha", "dropout", "lora_plus_ratio"}),
        bits=_ANY_BITS, both_factors=True, groups=builders.lora_plus_groups,
        step_tensors=builders.lora_factors,
    ),
    "lora-fa": Method(
        "LoRA-FA: the input-side factor stays at its random start",
        "2308.03303", _RANK, "PEFT", builders.lora(),
        TrainingDefaults(16, 1e-4, 5e-5, _AS_LORA),
        TrainingDefaults(8, 3e-3, 5e-4),
        clip=_CLIP, embedded_clip=_EMBEDDED_CLIP,
        bits=_ANY_BITS, frozen=("lora_A",), optimizer=builders.lora_fa_optimizer,
    ),
    "rslora": Method(
        "rsLoRA: scaled by 1 / sqrt(rank), for high ranks",
        "2312.03732", _RANK, "PEFT", builders.lora(use_rslora=True),
        TrainingDefaults(16, 5e-5, 2.5e-5),
        TrainingDefaults(8, 1e-3, 2e-4),
        clip=UniformDefaults(2, (2e-4,), 1.0, source="CLIP-LoRA's paper"),
        embedded_clip=UniformDefaults(2, (1e-2, 3e-3, 3e-2), 1.0),
        bits=_ANY_BITS, both_factors=True, step_tensors=builders.lora_factors,
    ),
    "dora": Method(
        "DoRA: LoRA for directions, a vector for magnitudes",
        "2402.09353", _RANK, "PEFT", builders.lora(use_dora=True),
        TrainingDefaults(16, 1e-4, 5e-5, _AS_LORA),
        TrainingDefaults(8, 3e-3, 5e-4),
        bits=_FOUR_BITS, both_factors=True, after_attach=builders.measure_magnitudes,
        decays_to_start=frozenset({"lora_magnitude_vector"}),
    ),
    "pissa": Method(
        "PiSSA: LoRA from the leading singular vectors",
        "2404.02948", _RANK, "ours", builders.project_tuner("DecomposedConfig", start="pissa"),
        TrainingDefaults(16, 2e-5, 1e-5, "paper, language models"),
        TrainingDefaults(8, 1e-3, 2e-4),
        both_factors=True, decays_to_start=_DECOMPOSED, tuner=Tuner("DECOMPOSED_LORA"),
    ),
    "olora": Method(
        "OLoRA: LoRA from a QR decomposition",
        "2406.01775", _RANK, "ours", builders.project_tuner("DecomposedConfig", start="olora"),
        TrainingDefaults(16, 1e-5, 5e-6, _FIRST_STEP),
        TrainingDefaults(8, 1e-3, 2e-4),
        embedded_llama=UniformDefaults(16, (1e-3,)),
        both_factors=True, decays_to_start=_DECOMPOSED, tuner=Tuner("DECOMPOSED_LORA"),
    ),
    "lora-xs": Method(
        "LoRA-XS: one small matrix between singular vectors",
        "2405.17604", "side of the trained matrix", "ours", builders.project_tuner("LoraXsConfig"),
        TrainingDefaults(64, 1e-4, 5e-5, _FIRST_STEP),
        TrainingDefaults(32, 5e-3, 2e-3),
        embedded_llama=UniformDefaults(16, (1e-2,)),
        decays_to_start=frozenset({"lora_xs_inner"}), tuner=Tuner("LORA_XS"),
    ),
    "dylora": Method(
        "DyLoRA: usable at every rank up to its own",
        "2210.07558", "highest rank", "ours", builders.project_tuner("DyloraConfig"),
        TrainingDefaults(16, 1e-4, 5e-5, _AS_LORA),
        TrainingDefaults(8, 3e-3, 5e-4),
        clip=_CLIP, embedded_clip=_EMBEDDED_CLIP,
        both_factors=True, steps=builders.dylora_step_rules, eager="every step has another rank",
        tuner=Tuner("DYLORA"),
    ),
    "tied-lora": Method(
        "Tied-LoRA: one pair for all layers of a kind",
        "2311.09578", "width of the shared factors", "ours",
        builders.project_tuner("TiedLoraConfig"),
        TrainingDefaults(16, 1e-4, 5e-5, _FIRST_STEP),
        TrainingDefaults(8, 5e-3, 1e-3),
        embedded_llama=UniformDefaults(16, (1e-2,)),
        tuner=Tuner("TIED_LORA"),
    ),
    "adalora": Method(
        "AdaLoRA: ranks move to where they matter",
        "2303.10512", "mean rank at the end; half as much again at first", "PEFT",
        builders.adalora,
        TrainingDefaults(8, 1e-3, 5e-4, "paper, language models"),
        TrainingDefaults(8, 1e-2, 2e-3),
        clip=UniformDefaults(2, (1e-3, 2e-4), _CLIP_ALPHA),
        embedded_clip=UniformDefaults(2, (2e-2, 6e-3, 6e-2), _CLIP_ALPHA),
        settings=frozenset({"alpha", "dropout", "total_steps"}), several=False, bits=_ANY_BITS,
        both_factors=True, no_average="would restore the ranks that adalora prunes",
        steps=builders.adalora_step_rules,
        # PEFT's own setter ignores that AdaLoRA divides by the rank in its forward pass.
        tuner=Tuner("ADALORA", scaling=lambda config, strength: strength * config.lora_alpha),
    ),
    "lokr": Method(
        "LoKr: a Kronecker product, one side low-rank",
        "2309.14859", "width of the low-rank side", "PEFT", builders.lokr,
        TrainingDefaults(16, 5e-4, 2.5e-4),
        TrainingDefaults(8, 5e-3, 1e-3),
        settings=frozenset({"alpha"}), tuner=Tuner("LOKR"),
    ),
    "loha": Method(
        "LoHa: two low-rank products, multiplied elementwise",
        "2108.06098", "width of each of the two pairs", "PEFT", builders.loha,
        TrainingDefaults(8, 2e-4, 1e-4),
        TrainingDefaults(8, 3e-3, 5e-4),
        settings=frozenset({"alpha"}), tuner=Tuner("LOHA"),
    ),
    "vera": Method(
        "VeRA: scalings around one random pair for all layers",
        "2310.11454", "width of the frozen pair", "PEFT", builders.vera,
        TrainingDefaults(256, 4e-3, 2e-3, "paper, language models"),
        TrainingDefaults(64, 2e-2, 5e-3),
        clip=UniformDefaults(256, (4e-3, 1e-3)),
        embedded_clip=UniformDefaults(64, (3e-2, 1e-2, 1e-1)),
        settings=frozenset({"dropout"}), several=False, bits=_FOUR_BITS,
        fits=builders.accept_any_rank,
        tuner=Tuner("VERA", shared=("vera_A", "vera_B")),
    ),
    "vblora": Method(
        "VB-LoRA: factors composed from one bank of vectors",
        "2405.15179", _RANK, "PEFT", builders.vblora,
        TrainingDefaults(4, 1e-2, 1e-2, "PEFT's guide: logits 1e-2, bank a tenth"),
        TrainingDefaults(4, 1e-2, 5e-3),
        settings=frozenset({"dropout"}), several=False, bits=_FOUR_BITS,
        decays_to_start=frozenset(
            {"vblora_logits_A", "vblora_logits_B", "vblora_vector_bank"}
        ),
        groups=builders.vblora_groups, eager="PEFT's layer waits for the GPU to check its logits",
        tuner=Tuner("VBLORA", shared=("vblora_vector_bank",)),
    ),
    "randlora": Method(
        "RandLoRA: full rank, by scalings of random pairs",
        "2502.00987", "width of each frozen pair", "PEFT", builders.randlora,
        TrainingDefaults(32, 1e-4, 5e-5, "PEFT's defaults"),
        TrainingDefaults(16, 1e-3, 2e-4),
        several=False, bits=_FOUR_BITS,
        tuner=Tuner(
            "RANDLORA", shared=("randlora_A", "randlora_B"),
            scaling=lambda config, strength: strength * config.randlora_alpha / config.r,
        ),
    ),
    "oft": Method(
        "OFT: inputs rotated, block by block",
        "2306.07280", "size of a block, which must divide the inputs", "PEFT", builders.oft,
        TrainingDefaults(32, 1e-4, 5e-5, "PEFT's block size"),
        TrainingDefaults(16, 5e-3, 1e-3),
        settings=frozenset(), bits=_FOUR_BITS, fits=builders.oft_fits,
        tuner=Tuner("OFT", is_sum=False),
    ),
}  # fmt: skip
"""Every method by the name that `--method` takes, NoRA and LoRA's variants first."""

METHOD_NAMES = {name: method.title for name, method in METHODS.items() if method.title}
"""Names of methods in text; the others go by the name that `--method` takes."""


def method_named(name: str) -> Method:
    """Return a method's record.

    Raises:
        StudioError: no method has that name; the message suggests the nearest.
    """
    if name not in METHODS:
        nearest = difflib.get_close_matches(name, METHODS, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise StudioError(f"method must be one of {', '.join(METHODS)}; got {name!r}.{hint}")
    return METHODS[name]


def check_optimizer(methods: Iterable[str], optimizer: str) -> None:
    """Refuse an optimizer where a method has its own.

    Args:
        methods: Names in `METHODS`.
        optimizer: As `--optimizer` takes it.

    Raises:
        StudioError: a method has an optimizer of its own, and `optimizer` is not the default.
    """
    for name in methods:
        if METHODS[name].optimizer is not None and optimizer != "adamw":
            raise StudioError(
                f"--optimizer {optimizer}: {name} has an optimizer of its own. Leave out "
                f"--optimizer or {name}."
            )


def planned_methods() -> list[str]:
    """Return the names of the methods that plan over the steps of a run."""
    return [name for name, method in METHODS.items() if "total_steps" in method.settings]


def tuner_of_kind(kind: str) -> Tuner:
    """Return the tuner with that `PeftType`; a plain one if no method of the table has it."""
    tuners = (method.tuner for method in METHODS.values())
    return next((tuner for tuner in tuners if tuner.kind == kind), Tuner(kind))
