"""Every adapter method of the field in one table, and how any of them goes on any model."""

from nora_studio.methods.attachment import (
    adapter_parameters,
    attach,
    check_settings,
    count_parameters,
    detach,
    method_named,
)
from nora_studio.methods.injection import (
    adapter_tensors,
    inject,
    peft_key,
    set_adapter_tensors,
    set_strength,
    tuner_layers,
    tuner_of,
    widen,
)
from nora_studio.methods.optimizers import (
    LORA_PLUS_RATIO,
    learning_rates,
    make_optimizer,
    release,
)
from nora_studio.methods.spec import AdapterSpec, Method, Shape
from nora_studio.methods.steps import StepRules, step_rules
from nora_studio.methods.table import METHODS

__all__ = [
    "LORA_PLUS_RATIO",
    "METHODS",
    "AdapterSpec",
    "Method",
    "Shape",
    "StepRules",
    "adapter_parameters",
    "adapter_tensors",
    "attach",
    "check_settings",
    "count_parameters",
    "detach",
    "inject",
    "learning_rates",
    "make_optimizer",
    "method_named",
    "peft_key",
    "release",
    "set_adapter_tensors",
    "set_strength",
    "step_rules",
    "tuner_layers",
    "tuner_of",
    "widen",
]
