"""open_clip models frozen, with every attention unpacked, and what is asked of them."""

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
    """A CLIP in evaluation mode, its attention unpacked."""

    name: str
    """As `--model` takes it."""
    model: Any  # open_clip.CLIP or its CustomTextCLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Side of its pictures in pixels."""
        side = self.model.visual.image_size
        return int(side[0] if isinstance(side, Sequence) else side)

    @property
    def folder(self) -> Path | None:
        """Where it lies; None if open_clip knows it by name."""
        return local_folder(self.name)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Values 0-255 (batch, 3, size, size) as the image encoder wants them."""
        mean, std = self._statistics
        return (pixels / 255 - mean) / std

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        known = self.model.visual.preprocess_cfg
        mean, std = (torch.tensor(known[name], device=self.device) for name in ("mean", "std"))
        return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def load_clip(name: str, dtype: torch.dtype, device: torch.device) -> FrozenClip:
    """Load a CLIP by open_clip and unpack its attention, which is checked in float32 on the CPU.

    Args:
        name: As `scores.load_scorer` takes it.
        dtype: Of every weight.

    Raises:
        StudioError: nothing loadable is behind the name, or its encoders are of another make.
    """
    scorer = load_scorer(name, "cpu", "--model")
    model: Any = scorer.model
    encoders = list(parts_of(model).values()) if isinstance(model, CLIP | CustomTextCLIP) else []
    made = [type(encoder).__name__ for encoder in encoders] or [type(model).__name__]
    own = isinstance(model, CLIP) or (
        isinstance(model, CustomTextCLIP) and isinstance(model.text, TextTransformer)
    )
    if not own or not isinstance(model.visual, VisionTransformer) or model.visual.attn_pool:
        raise StudioError(
            f"--model: expected open_clip's own ViT and text transformer; {name!r} has "
            f"{' and '.join(made)}. Take a plain one, such as ViT-B-16:openai."
        )
    # As it was read, in float32: before its attention is unpacked and its weights are cast.
    state: dict[str, Tensor] = model.state_dict()
    vision = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in state.items() if name not in vision}
    keep_base_tensors(model.visual, vision)
    keep_base_tensors(parts_of(model)["text"], text)
    unpack(model)
    model.to(device=device, dtype=dtype).requires_grad_(False).eval()
    return FrozenClip(name, model, scorer.preprocess, scorer.tokenize, device, dtype)


def parts_of(model: Any) -> dict[str, nn.Module]:
    """Return the two encoders that adapters go on, by part name."""
    text = model.transformer if isinstance(model, CLIP) else model.text
    return {"vision": model.visual, "text": text}


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Encode normalized pixels to unit vectors (batch, width), float32."""
    dtype = next(model.visual.parameters()).dtype
    return F.normalize(model.encode_image(pixels.to(dtype)).float(), dim=-1)


def text_features(model: Any, ids: Tensor) -> Tensor:
    """Encode texts to unit vectors (texts, width), float32."""
    return F.normalize(model.encode_text(ids).float(), dim=-1)
