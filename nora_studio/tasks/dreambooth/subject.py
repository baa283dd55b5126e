"""The data shared by all twins: settings, the frozen base, and the encoded prompts."""

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
    """The data shared by all twins: settings, the frozen base, and the encoded prompts."""

    settings: DreamboothSettings
    pipe: StableDiffusionXLPipeline
    trigger: str
    text: PromptEncoding
    process: Denoising
    tokens: NewTokens | None = None
    """The trigger's new tokens with their initial vectors; None if it is a rare word."""
    activations: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """Part -> layer -> mean |x| per input channel; empty unless outer factors depend on it."""
    sharding: Sharding | None = None
    """How the base is sharded; None if each process has all of it."""

    @property
    def size(self) -> int:
        """Side of the training images in pixels."""
        return self.settings.base.resolution
