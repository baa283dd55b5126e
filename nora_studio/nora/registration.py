"""Register a method with PEFT, whose list of methods is a closed enum."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft.config import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner


def register_method(config: type[PeftConfig], tuner: type[BaseTuner]) -> None:
    """Register a method, once, under its tuner's prefix ("nora_": `PeftType.NORA`).

    From then on `get_peft_model`, `PeftModel.from_pretrained` and the like accept it.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType, register_peft_method

    prefix = tuner.prefix.removesuffix("_")
    name = prefix.upper()
    if name not in PeftType.__members__:
        add_peft_type(name)
    if PeftType[name] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=prefix, config_cls=config, model_cls=tuner)


def add_peft_type(name: str) -> None:
    """Add a member to PEFT's closed enum of methods.

    `register_peft_method` takes only names that are members already. The three private maps are
    the same on Python 3.10 to 3.14; the class attribute is what `PeftType.NORA` reads from 3.12 on.
    """
    from peft.utils import PeftType

    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
