"""Nested Low-Rank Adaptation (NoRA, arXiv:2408.10280) as a PEFT method.

Importing this package makes the method known to PEFT. It is not Normalized LoRA (arXiv:2608.31036),
which PEFT calls `use_nora`.
"""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType, register_peft_method

from nora_studio.nora.config import NoraConfig
from nora_studio.nora.layer import NoraLinear
from nora_studio.nora.model import NoraModel
from nora_studio.nora.svd import (
    activation_aware_svd,
    canonical_signs,
    randomized_svd,
    truncated_svd,
)

__all__ = [
    "NoraConfig",
    "NoraLinear",
    "NoraModel",
    "activation_aware_svd",
    "canonical_signs",
    "randomized_svd",
    "truncated_svd",
]


def _add_peft_type(name: str) -> None:
    """Give PEFT's closed enum of methods one more member.

    `register_peft_method` takes only names that are members already. The three private maps are
    the same on Python 3.10 to 3.14; the attribute is what `PeftType.NORA` reads from 3.12 on.
    """
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member


def _register() -> None:
    if "NORA" not in PeftType.__members__:
        _add_peft_type("NORA")
    if PeftType["NORA"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name="nora", config_cls=NoraConfig, model_cls=NoraModel)


_register()
