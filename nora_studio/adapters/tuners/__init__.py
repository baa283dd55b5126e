"""Methods of the field that PEFT lacks, or that need the untouched base, as PEFT tuners.

Importing this package makes them known to PEFT.
"""

# Before all of ours: when PEFT arrives it brings in both packages of methods, neither half read.
import peft  # noqa: F401

from nora_studio.adapters.tuners.config import (
    DecomposedConfig,
    DyloraConfig,
    LoraXsConfig,
    TiedLoraConfig,
)
from nora_studio.adapters.tuners.decomposed import DecomposedLinear, DecomposedModel
from nora_studio.adapters.tuners.dylora import DyloraLinear, DyloraModel, draw_rank, serve_rank
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
    "draw_rank",
    "serve_rank",
]

register_method(LoraXsConfig, LoraXsModel)
register_method(DyloraConfig, DyloraModel)
register_method(TiedLoraConfig, TiedLoraModel)
register_method(DecomposedConfig, DecomposedModel)
