"""Nested Low-Rank Adaptation (NoRA, arXiv:2408.10280) as a PEFT method.

Importing this package registers the method with PEFT. It is not Normalized LoRA (arXiv:2608.31036),
proposed for PEFT as `use_nora` (PR 3637).
"""

# Before our own modules: PEFT, once imported, imports both packages of methods, and must not find
# one half imported.
import peft  # noqa: F401

from nora_studio.nora.calibration import record_mean_abs_inputs
from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear
from nora_studio.nora.model import NoraModel
from nora_studio.nora.outer_cache import OuterCache
from nora_studio.nora.registration import register_method
from nora_studio.nora.svd import (
    activation_aware_svd,
    canonical_signs,
    outer_factors,
    randomized_svd,
    truncated_svd,
)

__all__ = [
    "NoraConfig",
    "NoraLinear",
    "NoraModel",
    "OuterCache",
    "activation_aware_svd",
    "canonical_signs",
    "outer_factors",
    "randomized_svd",
    "record_mean_abs_inputs",
    "truncated_svd",
]


register_method(NoraConfig, NoraModel)
