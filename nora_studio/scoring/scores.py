"""Scores of images by CLIP and DINO."""

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
from nora_studio.scoring.similarity import mean_similarity

_NOT_LOADED = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, SafetensorError,
)  # fmt: skip
ENCODING_BATCH = 32


@dataclass(frozen=True)
class Scorer:
    """A CLIP in evaluation mode and float32, with its preprocessing and tokenizer."""

    name: str
    model: Any  # open_clip.CLIP or its CustomTextCLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    device: torch.device

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return unit vectors of images, (images, width), float32 on the CPU."""
        rows = []
        for start in range(0, len(images), ENCODING_BATCH):
            chunk = images[start : start + ENCODING_BATCH]
            pixels = torch.stack([self.preprocess(image.convert("RGB")) for image in chunk])
            rows.append(self.model.encode_image(pixels.to(self.device)))
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Return unit vectors of prompts, (prompts, width), float32 on the CPU."""
        rows = []
        for start in range(0, len(prompts), ENCODING_BATCH):
            ids = self.tokenize(list(prompts[start : start + ENCODING_BATCH]))
            rows.append(self.model.encode_text(ids.to(self.device)))
        return F.normalize(torch.cat(rows).float(), dim=-1).cpu()

    def unread_words(self, prompt: str) -> str:
        """Return the end of a prompt that the tokenizer cuts off; "" if all is read."""
        words = prompt.split()
        beginnings = [" ".join(words[: count + 1]) for count in range(len(words))]
        if not beginnings:
            return ""
        # With any tokenizer, words that are cut off do not change the ids.
        ids = self.tokenize(beginnings)
        read = int((ids == ids[-1]).all(dim=1).int().argmax())
        return " ".join(words[read + 1 :])


def load_scorer(
    name: str = EMBEDDED, device: str | torch.device = "cpu", flag: str = "--clip"
) -> Scorer:
    """Load a CLIP with open_clip, from safetensors only.

    Args:
        name: A name for `clip_files.find_clip_files`: "embedded", a folder in open_clip's format,
            "hf-hub:owner/name", or "ARCHITECTURE:WEIGHTS", such as "ViT-B-32:openai".
        flag: The option that names the CLIP, for messages.

    Raises:
        StudioError: the model could not be loaded, or its weights are a pickle.
    """
    files = find_clip_files(name, flag)
    try:
        model, preprocess, tokenize = load_open_clip(files, device)
    except _NOT_LOADED as error:
        raise StudioError(
            f"{flag}: {name!r} could not be loaded: {first_line(error).rstrip('.')}. "
            "Check the name or folder."
        ) from error
    model.requires_grad_(False).eval()
    return Scorer(name, model, preprocess, tokenize, torch.device(device))


def clip_t(scorer: Scorer, images: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
    """Return CLIP-T: the cosine of each image with its prompt without "[V]", (images,).

    Source: DreamBooth (arXiv 2208.12242), 4.2; CLIP does not know the trigger word.
    """
    if len(images) != len(prompts):
        raise StudioError(
            f"expected one prompt for each of {len(images)} images; got {len(prompts)}."
        )
    texts = scorer.text_features([replace_token(prompt, None) for prompt in prompts])
    return (scorer.image_features(images) * texts).sum(dim=-1)


def clip_i(
    scorer: Scorer, images: Sequence[Image.Image], references: Sequence[Image.Image]
) -> Tensor:
    """Return CLIP-I: the mean cosine of each image with all real photos, (images,).

    The mean over images is then DreamBooth's mean over all pairs of generated and real ones.
    """
    if not references:
        raise StudioError("CLIP-I: expected at least one real photo of the subject; got none.")
    return mean_similarity(scorer.image_features(images), scorer.image_features(references))


def score_images(
    scorer: Scorer,
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    references: Sequence[Image.Image] | None = None,
    dino: Dino | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield names and values of scores, one value per image.

    "CLIP-T" always, "CLIP-I" with references, and "DINO" with references and a DINO.
    """
    yield "CLIP-T", clip_t(scorer, images, prompts)
    if references:
        yield "CLIP-I", clip_i(scorer, images, references)
        if dino is not None:
            yield "DINO", dino_score(dino, images, references)
