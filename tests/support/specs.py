"""A small adapter of every method in the table."""

from typing import Any

from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.adapters.methods.table import METHODS

SHARING = ("vera", "vblora", "randlora", "tied-lora")
"""Methods whose layers share tensors: the ones that a careless copy or file would part."""
NEAR_ZERO = ("lora-xs", "vblora")
"""Methods that begin near the base, as published, and not at it."""

FILE_METHODS = ("lora", "nora", "tied-lora")
"""For what is told of files in general; `test_methods_files` takes every method."""


def spec_of(method: str, rank: int = 4, outer_rank: int = 16, **settings) -> AdapterSpec:
    """A specification of that rank, with what the method cannot do without."""
    given: dict[str, Any] = settings
    if method == "nora":
        given = {"outer_rank": outer_rank} | given
    if method == "adalora":
        given = {"total_steps": 10} | given
    return AdapterSpec(method, rank, **given)


SPECS = {method: spec_of(method) for method in METHODS}
