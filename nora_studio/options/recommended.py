"""Where to start with each method: rank and learning rates, for SDXL and for the embedded model.

For SDXL: NoRA's from its paper (section 4.3), LoRA's from the usual recipes; the others' from their
papers or PEFT's guides where `source` says so, carried over from the tasks tried there, and
otherwise starting points. They are compared by how far the first step moves a weight, as a share of
its largest singular value (`methods.first_step`, on SDXL's attention shapes with entries of
variance 1 / in_features and singular values falling as i^-0.3 to i^-0.5): LoRA's by 0.06% to 0.14%,
NoRA's by 0.07% to 0.11%, a starting point by three times LoRA's at most. Where a factor starts at
zero and learns by products (AdaLoRA, LoHa, VeRA) the first step is small and says little.

For the embedded model: `evaluation/sweep.py` measured NoRA and LoRA; the others' rates are scaled
like LoRA's and were tried for a falling loss, no more. Its short runs take far larger steps: LoRA's
and NoRA's first ones are 4% and 6% in the UNet.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recommendation:
    """What a method trains with where nothing else is asked for."""

    rank: int
    """As the table of methods counts it."""
    unet: float
    """Learning rate of the UNet's adapter."""
    text: float
    """Learning rate of each text encoder's."""
    source: str = "starting point"
    """Where the numbers come from."""
    outer_rank: int | None = None
    """NoRA alone."""
    alpha: float | None = None
    """The scale is alpha / rank; None: the method's usual one."""

    def learning_rate(self, part: str) -> float:
        """Of "unet", "text_encoder" or "text_encoder_2"."""
        return self.unet if part == "unet" else self.text


_AS_LORA = "as LoRA's, which its paper keeps"
_FIRST_STEP = "moves a weight about as far as LoRA's"

_SDXL = {
    "nora": Recommendation(8, 1e-4, 5e-5, "paper, section 4.3", outer_rank=64),
    "lora": Recommendation(16, 1e-4, 5e-5, "the usual recipe"),
    "lora+": Recommendation(16, 5e-5, 2.5e-5, "paper's ratio 16, at half LoRA's rate"),
    "lora-fa": Recommendation(16, 1e-4, 5e-5, _AS_LORA),
    "rslora": Recommendation(16, 5e-5, 2.5e-5),
    "dora": Recommendation(16, 1e-4, 5e-5, _AS_LORA),
    "pissa": Recommendation(16, 2e-5, 1e-5, "paper, language models"),
    "olora": Recommendation(16, 1e-5, 5e-6, _FIRST_STEP),
    "lora-xs": Recommendation(64, 1e-4, 5e-5, _FIRST_STEP),
    "dylora": Recommendation(16, 1e-4, 5e-5, _AS_LORA),
    "tied-lora": Recommendation(16, 1e-4, 5e-5, _FIRST_STEP),
    "adalora": Recommendation(8, 1e-3, 5e-4, "paper, language models"),
    "lokr": Recommendation(16, 5e-4, 2.5e-4),
    "loha": Recommendation(8, 2e-4, 1e-4),
    "vera": Recommendation(256, 4e-3, 2e-3, "paper, language models"),
    "vblora": Recommendation(4, 1e-2, 1e-2, "PEFT's guide: logits 1e-2, bank a tenth"),
    "randlora": Recommendation(32, 1e-4, 5e-5, "PEFT's defaults"),
    "oft": Recommendation(32, 1e-4, 5e-5, "PEFT's block size"),
}

_EMBEDDED = {
    # From the sweep that evaluation/sweep.py records: so small a UNet binds a subject far better
    # with its feed-forward layers adapted too.
    "nora": Recommendation(8, 3e-3, 1e-3, "sweep", outer_rank=48),
    "lora": Recommendation(8, 3e-3, 5e-4, "sweep"),
    "lora+": Recommendation(8, 5e-4, 1e-4),
    "lora-fa": Recommendation(8, 3e-3, 5e-4),
    "rslora": Recommendation(8, 1e-3, 2e-4),
    "dora": Recommendation(8, 3e-3, 5e-4),
    "pissa": Recommendation(8, 1e-3, 2e-4),
    "olora": Recommendation(8, 1e-3, 2e-4),
    "lora-xs": Recommendation(32, 5e-3, 2e-3),
    "dylora": Recommendation(8, 3e-3, 5e-4),
    "tied-lora": Recommendation(8, 5e-3, 1e-3),
    "adalora": Recommendation(8, 1e-2, 2e-3),
    "lokr": Recommendation(8, 5e-3, 1e-3),
    "loha": Recommendation(8, 3e-3, 5e-4),
    "vera": Recommendation(64, 2e-2, 5e-3),
    "vblora": Recommendation(4, 1e-2, 5e-3),
    "randlora": Recommendation(16, 1e-3, 2e-4),
    "oft": Recommendation(16, 5e-3, 1e-3),
}


def recommended(method: str, model: str) -> Recommendation:
    """The recommendation for a method of the table on a base model.

    Args:
        method: A name in `METHODS`.
        model: As `--model` takes it; everything but "embedded" is taken for an SDXL.
    """
    return (_EMBEDDED if model == "embedded" else _SDXL)[method]


def rate_of(optimizer: str) -> float:
    """What an optimizer makes of the rates above, which are AdamW's: Lion's steps are larger.

    Source: Chen et al., arXiv 2302.06675, section 5: a third to a tenth of AdamW's rate.
    """
    return 0.2 if optimizer == "lion" else 1.0


def first_rate(method: str, model: str) -> float:
    """Where Prodigy begins to look for a method's rate: a tenth of AdamW's.

    Its own 1e-6 takes most of a run of a hundred steps to be left behind, and it never goes down.
    """
    return recommended(method, model).unet / 10
