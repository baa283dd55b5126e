"""The dtype that `--precision` names."""

import torch

from nora_studio.errors import StudioError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_dtype(precision: str, device: str | torch.device) -> torch.dtype:
    """Return the dtype that a precision names; "auto" is bfloat16 on a GPU, float32 on a CPU.

    Raises:
        StudioError: the precision is unknown.
    """
    if precision == "auto":
        precision = "bf16" if torch.device(device).type == "cuda" else "fp32"
    if precision not in DTYPES:
        raise StudioError(f"--precision: expected auto, {', '.join(DTYPES)}; got {precision!r}.")
    return DTYPES[precision]
