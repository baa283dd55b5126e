"""Load frozen open_clip models with unpacked attention, and encode images and texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, VisionTransformer
from PIL import Image
from torch import Tensor, nn

from nora_studio.adapters.base_digests import keep_base_tensors
from nora_studio.errors import StudioError
from nora_studio.scoring.clip_files import local_folder
from nora_studio.scoring.scores import load_scorer
from nora_studio.tasks.fewshot.attention import unpack


@dataclass(frozen=True)
class FrozenClip:
    """A frozen CLIP in evaluation mode, with unpacked attention."""

    name: str
    """The value of `--model`."""
    model: Any  # open_clip.CLIP or its CustomTextCLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Side of its images in pixels."""
        side = self.model.visual.image_size
        return int(side[0] if isinstance(side, Sequence) else side)

    @property
    def folder(self) -> Path | None:
        """The model's folder; None if open_clip has it by name."""
        return local_folder(self.name)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalise values 0-255 (batch, 3, size, size) for the image encoder."""
        mean, std = self._mean_and_std
        return (pixels / 255 - mean) / std

    @cached_property
    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        known = self.model.visual.preprocess_cfg
        mean, std = (torch.tensor(known[name], device=self.device) for name in ("mean", "std"))
        return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def load_clip(name: str, dtype: torch.dtype, device: torch.device) -> FrozenClip:
    """Load a CLIP with open_clip and unpack its attention, which is checked in float32 on the CPU.

    Args:
        name: A name for `scores.load_scorer`.
        dtype: Dtype of all weights.

    Raises:
        StudioError: the model cannot be loaded, or its encoders are of another type.
    """
    scorer = load_scorer(name, "cpu", "--model")
    model: Any = scorer.model
    encoders = list(parts_of(model).values()) if isinstance(model, CLIP | CustomTextCLIP) else []
    types = [type(encoder).__name__ for encoder in encoders] or [type(model).__name__]
    own = isinstance(model, CLIP) or (
        isinstance(model, CustomTextCLIP) and isinstance(model.text, TextTransformer)
    )
    if not own or not isinstance(model.visual, VisionTransformer) or model.visual.attn_pool:
        raise StudioError(
            f"--model: expected open_clip's own ViT and text transformer; {name!r} has "
            f"{' and '.join(types)}. Choose a plain one, such as ViT-B-16:openai."
        )
    # The tensors as read, in float32, before attention is unpacked and weights are cast.
    state: dict[str, Tensor] = model.state_dict()
    vision = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in state.items() if name not in vision}
    keep_base_tensors(model.visual, vision)
    keep_base_tensors(parts_of(model)["text"], text)
    unpack(model)
    model.to(device=device, dtype=dtype).requires_grad_(False).eval()
    return FrozenClip(name, model, scorer.preprocess, scorer.tokenize, device, dtype)


def parts_of(model: Any) -> dict[str, nn.Module]:
    """Return the two encoders that can be adapted, by part name."""
    text = model.transformer if isinstance(model, CLIP) else model.text
    return {"vision": model.visual, "text": text}


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Encode normalised pixels as unit vectors (batch, width), float32."""
    dtype = next(model.visual.parameters()).dtype
    return F.normalize(model.encode_image(pixels.to(dtype)).float(), dim=-1)


def text_features(model: Any, ids: Tensor) -> Tensor:
    """Encode token ids as unit vectors (texts, width), float32."""
    return F.normalize(model.encode_text(ids).float(), dim=-1)
