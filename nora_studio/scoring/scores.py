"""Judge pictures with CLIP and DINO."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from nora_studio.errors import StudioError, first_line
from nora_studio.mini.assets import EMBEDDED
from nora_studio.photos.prompts import replace_token
from nora_studio.scoring.clip_files import find_clip_files, load_open_clip
from nora_studio.scoring.dino import Dino, dino_score

_NOT_LOADED = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError,
)  # fmt: skip
ENCODING_BATCH = 32


@dataclass(frozen=True)
class Scorer:
    """A CLIP in evaluation mode, float32, with its own preprocessing and tokenizer."""

    name: str
    model: Any  # open_clip.CLIP or its CustomTextCLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors (images, width), float32 on the CPU."""
        rows = []
        for start in range(0, len(images), ENCODING_BATCH):
            chunk = images[start : start + ENCODING_BATCH]
            pixels = torch.stack([self.preprocess(image.convert("RGB")) for image in chunk])
            rows.append(self.model.encode_image(pixels.to(self.device)))
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors (prompts, width), float32 on the CPU."""
        rows = []
        for start in range(0, len(prompts), ENCODING_BATCH):
            ids = self.tokenize(list(prompts[start : start + ENCODING_BATCH]))
            rows.append(self.model.encode_text(ids.to(self.device)))
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    def unread_words(self, prompt: str) -> str:
        """The end of a prompt that the tokenizer cuts off; empty where all is read."""
        words = prompt.split()
        beginnings = [" ".join(words[: count + 1]) for count in range(len(words))]
        if not beginnings:
            return ""
        # Whatever the tokenizer, cut off is what changes nothing.
        ids = self.tokenize(beginnings)
        read = int((ids == ids[-1]).all(dim=1).int().argmax())
        return " ".join(words[read + 1 :])


def load_scorer(
    name: str = EMBEDDED, device: str | torch.device = "cpu", flag: str = "--clip"
) -> Scorer:
    """Load a CLIP by open_clip, from safetensors alone.

    Args:
        name: As `clip_files.find_clip_files` takes it: "embedded", a folder of open_clip's own
            format, "hf-hub:owner/name", or "ARCHITECTURE:WEIGHTS", such as "ViT-B-32:openai".
        flag: What asked for it, for the message.

    Raises:
        StudioError: nothing loadable is behind the name, or a pickle.
    """
    files = find_clip_files(name, flag)
    try:
        model, preprocess, tokenize = load_open_clip(files, device)
    except _NOT_LOADED as error:
        raise StudioError(f"{flag}: {name!r} could not be loaded: {first_line(error)}") from error
    model.requires_grad_(False).eval()
    return Scorer(name, model, preprocess, tokenize, torch.device(device))


def clip_t(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
    """CLIP-T: cosine of each picture with its own prompt, "[V]" left out, (images,).

    Source: DreamBooth (arXiv 2208.12242), 4.2; CLIP does not know the rare word.
    """
    if len(images) != len(prompts):
        raise StudioError(
            f"expected a prompt for each of {len(images)} images, not {len(prompts)}."
        )
    texts = scorer.text_features([replace_token(prompt, None) for prompt in prompts])
    return (scorer.image_features(images) * texts).sum(dim=-1)


def clip_i(
    scorer: Scorer, images: Sequence[Image.Image], references: Sequence[Image.Image]
) -> Tensor:
    """CLIP-I: mean cosine of each picture with all real photos of the subject, (images,).

    The mean over pictures is then DreamBooth's mean over all generated x real pairs.
    """
    if not references:
        raise StudioError("CLIP-I needs at least one real photo of the subject; got none.")
    return (scorer.image_features(images) @ scorer.image_features(references).T).mean(dim=-1)


def score_pictures(
    scorer: Scorer,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    references: Sequence[Image.Image] | None = None,
    dino: Dino | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, one score a picture): "CLIP-T"; with references "CLIP-I", and "DINO" by one."""
    yield "CLIP-T", clip_t(scorer, images, prompts)
    if references:
        yield "CLIP-I", clip_i(scorer, images, references)
        if dino is not None:
            yield "DINO", dino_score(dino, images, references)
