"""NoRA Studio: personalise Stable Diffusion XL with Nested Low-Rank Adaptation (arXiv 2408.10280).

Importing the package registers NoRA and the tuners beside it with PEFT, so that
`PeftModel.from_pretrained` and friends read what they saved.
"""

__version__ = "0.1.0"

import nora_studio.tuners  # noqa: F401
from nora_studio.nora import NoraConfig, NoraLinear, NoraModel

__all__ = ["NoraConfig", "NoraLinear", "NoraModel", "__version__"]
