"""Where to start with each method on a language model, and on the embedded one.

For language models NoRA's and LoRA's sizes are those of the paper's Table 1 and the rate is the
protocol's 3e-4, as LLM-Adapters trains; other methods keep the ranks and the ratios of rates that
`options.recommended` has. By the first step on a 4096x4096 weight (`adapters.methods.first_step`,
singular values falling as i^-0.5) LoRA's 3e-4 moves it by 0.2% of the largest and NoRA's by 0.7%;
at that rate PiSSA would move it by 1.1% and OLoRA by 4.6%. The embedded model is 256 wide, so that
ranks are smaller and rates higher; those were tried for a falling loss, no more.
"""

from dataclasses import dataclass

from nora_studio.options.recommended import recommended as sdxl

PROTOCOL_RATE = 3e-4
EMBEDDED_RATE = 2e-3
"""LoRA's on the embedded model."""
_EMBEDDED_SHARES = {"olora": 0.5, "lora-xs": 5, "tied-lora": 5}
"""Of LoRA's rate, where it is not what SDXL's table has: as tried on the embedded model."""
_LARGE_OUTER, _SMALL_OUTER = 704, 128


@dataclass(frozen=True)
class LanguageRecommendation:
    """What a method trains with where nothing else is asked for."""

    rank: int
    rate: float
    outer_rank: int | None = None
    alpha: float | None = None

    def learning_rate(self, part: str) -> float:
        """Return the rate, which is the same in every part."""
        return self.rate


def recommended(method: str, model: str) -> LanguageRecommendation:
    """Return the recommendation for a method of the table on a base model.

    Args:
        method: A name in `METHODS`.
        model: As `--model` takes it.
    """
    usual = sdxl(method, "")
    share = usual.unet / sdxl("lora", "").unet
    if model == "embedded":
        if method == "nora":
            return LanguageRecommendation(16, 4e-3, _SMALL_OUTER)
        share = _EMBEDDED_SHARES.get(method, min(share, 5))
        return LanguageRecommendation(min(usual.rank, 16), EMBEDDED_RATE * share)
    if method == "nora":
        return LanguageRecommendation(32, PROTOCOL_RATE, _LARGE_OUTER)
    return LanguageRecommendation(usual.rank, PROTOCOL_RATE * share)
