"""Adapters on the smallest LLaMA."""

import torch

from nora_studio.adapters.methods.attachment import attach
from support.any_module import AnyModule
from support.families import FAMILIES, make
from support.specs import spec_of

FAMILY = FAMILIES["llama"]


def adapted(method: str, **settings) -> AnyModule:
    torch.manual_seed(0)
    model = make(FAMILY)
    attach(model, FAMILY.targets, spec_of(method, **settings))
    return model
