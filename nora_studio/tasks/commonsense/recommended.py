"""Recommended rank and learning rates of each method on language models.

They are in a method's record, or derived from its record for SDXL: LoRA's rate is the protocol's
3e-4, as in LLM-Adapters, and other methods keep SDXL's ranks and their rates relative to LoRA's.
In the first step on a 4096x4096 weight (`adapters.methods.first_step`, singular values falling as
i^-0.5), LoRA at 3e-4 moves it by 0.2% of the largest and NoRA by 0.7%; at that rate PiSSA would
move it by 1.1% and OLoRA by 4.6%. The embedded model is 256 wide, so its ranks are smaller and its
rates higher; they were only checked for a falling loss.
"""

from nora_studio.adapters.methods.spec import UniformDefaults
from nora_studio.adapters.methods.table import METHODS

PROTOCOL_RATE = 3e-4
EMBEDDED_RATE = 2e-3
"""LoRA's rate on the embedded model."""
_EMBEDDED_RANK, _EMBEDDED_SHARE = 16, 5
"""The largest rank on the embedded model, and the largest multiple of LoRA's rate."""


def recommended(method: str, model: str) -> UniformDefaults:
    """Return a method's recommended settings on a model.

    Args:
        method: A name in `METHODS`.
        model: The value of `--model`.
    """
    record = METHODS[method]
    own = record.embedded_llama if model == "embedded" else record.llama
    if own is not None:
        return own
    rank, share = record.sdxl.rank, record.sdxl.unet / METHODS["lora"].sdxl.unet
    if model == "embedded":
        rank, rate = min(rank, _EMBEDDED_RANK), EMBEDDED_RATE * min(share, _EMBEDDED_SHARE)
    else:
        rate = PROTOCOL_RATE * share
    return UniformDefaults(rank, (rate,))
