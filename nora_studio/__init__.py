"""NoRA Studio: personalise Stable Diffusion XL with Nested Low-Rank Adaptation (arXiv 2408.10280).

Once the package is imported, PEFT knows NoRA and the tuners beside it, so that
`PeftModel.from_pretrained` and friends read what they saved. PEFT itself, which takes about ten
seconds to import, is imported by whoever first needs it.
"""

import importlib
from typing import TYPE_CHECKING

from nora_studio.runs.import_hooks import when_imported
from nora_studio.runs.log_filters import filter_library_logs

if TYPE_CHECKING:
    from nora_studio.nora import NoraConfig, NoraLinear, NoraModel

__version__ = "0.2.0"

__all__ = ["NoraConfig", "NoraLinear", "NoraModel", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("NoraConfig", "NoraLinear", "NoraModel"):
        return getattr(importlib.import_module("nora_studio.nora"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _register() -> None:
    for methods in ("nora_studio.nora", "nora_studio.adapters.tuners"):
        importlib.import_module(methods)


filter_library_logs()
when_imported("peft", _register)
