"""The DINO score of images, which distinguishes a subject from others of its class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from nora_studio.errors import StudioError, first_line
from nora_studio.runs.weight_files import check_hub_weights, check_weights
from nora_studio.scoring.similarity import mean_similarity

MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
"""Vision transformers of transformers whose first output token is the class token."""
ENCODING_BATCH = 32


@dataclass(frozen=True)
class Dino:
    """A DINO in evaluation mode and float32, with its preprocessing."""

    name: str
    model: Any
    processor: Any
    device: torch.device

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return class tokens of the images' centre squares: unit vectors, (images, width).

        Squares, because some processors resize without keeping proportions. float32 on the CPU.
        """
        rows = []
        for start in range(0, len(images), ENCODING_BATCH):
            chunk = [_crop_to_square(image) for image in images[start : start + ENCODING_BATCH]]
            pixels = self.processor(images=chunk, return_tensors="pt")["pixel_values"]
            tokens = self.model(pixel_values=pixels.to(self.device)).last_hidden_state
            rows.append(tokens[:, 0])  # (batch, tokens, width): the class token is the first.
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()


def load_dino(name: str, device: str | torch.device = "cpu") -> Dino:
    """Load a DINO (v1, v2, v3) with transformers, from safetensors only.

    Args:
        name: A folder, or a Hub name such as facebook/dino-vits16 or facebook/dinov2-small.

    Raises:
        StudioError: the model could not be loaded, or has no class token.
    """
    source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    check_weights("--dino", name, Path(source))
    try:
        kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
        if kind not in MODEL_TYPES:
            raise StudioError(
                f"--dino: expected a vision transformer ({', '.join(MODEL_TYPES)}); {name!r} is a "
                f"{kind}. The DreamBooth paper uses facebook/dino-vits16."
            )
        # DINO has no pooler; it would be initialised at random, with many warnings.
        without_pooler = {"add_pooling_layer": False} if kind == "vit" else {}
        model, loading = AutoModel.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            **without_pooler,
        )
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, StudioError):
            raise
        check_hub_weights("--dino", name)
        raise StudioError(
            f"--dino: {name!r} could not be loaded: {first_line(error).rstrip('.')}. Name a "
            "complete model on the Hub or in a folder, such as facebook/dino-vits16."
        ) from error
    if loading["missing_keys"]:  # They would be initialised at random, too.
        raise StudioError(
            f"--dino: {name!r} lacks {len(loading['missing_keys'])} of the model's weights, such "
            f"as {min(loading['missing_keys'])}. Use a complete model, such as "
            "facebook/dino-vits16."
        )
    model = model.requires_grad_(False).eval().to(device)
    return Dino(name, model, processor, torch.device(device))


def dino_score(
    dino: Dino, images: Sequence[Image.Image], references: Sequence[Image.Image]
) -> Tensor:
    """Return the DINO score: the mean cosine of each image with all real photos, (images,).

    Source: DreamBooth (arXiv 2208.12242), 4.2. Unlike CLIP, DINO is not trained to ignore the
    differences between subjects of one class.
    """
    if not references:
        raise StudioError("DINO: expected at least one real photo of the subject; got none.")
    return mean_similarity(dino.features(images), dino.features(references))


def _crop_to_square(image: Image.Image) -> Image.Image:
    side = min(image.size)
    return ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC)
