"""PEFT tuners of methods that PEFT lacks, or implements by changing the base weights.

Importing this package registers them with PEFT.
"""

# Before our own modules: PEFT, once imported, imports both packages of methods, and must not find
# one half imported.
import peft  # noqa: F401

from nora_studio.adapters.tuners.config import (
    DecomposedConfig,
    DyloraConfig,
    LoraXsConfig,
    TiedLoraConfig,
)
from nora_studio.adapters.tuners.decomposed import DecomposedLinear, DecomposedModel
from nora_studio.adapters.tuners.dylora import (
    DyloraLinear,
    DyloraModel,
    sample_rank,
    set_inference_rank,
)
from nora_studio.adapters.tuners.layer import LowRankLinear
from nora_studio.adapters.tuners.tied import TiedLoraLinear, TiedLoraModel
from nora_studio.adapters.tuners.xs import LoraXsLinear, LoraXsModel
from nora_studio.nora.registration import register_method

__all__ = [
    "DecomposedConfig",
    "DecomposedLinear",
    "DyloraConfig",
    "DyloraLinear",
    "LoraXsConfig",
    "LoraXsLinear",
    "LowRankLinear",
    "TiedLoraConfig",
    "TiedLoraLinear",
    "sample_rank",
    "set_inference_rank",
]

register_method(LoraXsConfig, LoraXsModel)
register_method(DyloraConfig, DyloraModel)
register_method(TiedLoraConfig, TiedLoraModel)
register_method(DecomposedConfig, DecomposedModel)
