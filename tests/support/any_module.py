"""The type of torch modules of which tests use more than `nn.Module` has."""

from typing import Any, TypeAlias

AnyModule: TypeAlias = Any
"""Unchecked, as `nn.Module` types each attribute of another name as `Tensor | Module`."""
