"""Adapters on the smallest LLaMA."""

import torch
from torch import nn

from nora_studio.adapters.methods.attachment import attach
from support.families import FAMILIES, make
from support.specs import spec_of

FAMILY = FAMILIES["llama"]


def adapted(method: str, **settings) -> nn.Module:
    torch.manual_seed(0)
    model = make(FAMILY)
    attach(model, FAMILY.targets, spec_of(method, **settings))
    return model
