"""What every twin of a run shares: settings, the frozen base, and the words for the subject."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from nora_studio.adapters.new_tokens import NewTokens
from nora_studio.sdxl.diffusion import Denoising
from nora_studio.tasks.dreambooth.settings import DreamboothSettings
from nora_studio.tasks.dreambooth.step import PromptEncoding
from nora_studio.trainer.sharding import Sharding


@dataclass(frozen=True)
class Subject:
    """What every twin shares: settings, the frozen base, and the words for the subject."""

    settings: DreamboothSettings
    pipe: StableDiffusionXLPipeline
    trigger: str
    text: PromptEncoding
    process: Denoising
    tokens: NewTokens | None = None
    """New tokens as they start, which the trigger consists of; None: it is a rare word."""
    activations: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Part -> layer -> mean |x| per input channel, where the outer factors follow activations."""
    sharding: Sharding | None = None
    """How the base is spread over the processes; None: each has all of it."""

    @property
    def size(self) -> int:
        """Side of the training pictures in pixels."""
        return self.settings.base.resolution
