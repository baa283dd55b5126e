"""Judge pictures with CLIP and DINO."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from nora_studio.assets import EMBEDDED, embedded
from nora_studio.dino import Dino, dino_score
from nora_studio.errors import StudioError
from nora_studio.prompts import replace_token

CONFIG = "open_clip_config.json"
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


def load_scorer(
    name: str = EMBEDDED, device: str | torch.device = "cpu", flag: str = "--clip"
) -> Scorer:
    """Load a CLIP by open_clip.

    Args:
        name: "embedded"; a folder of open_clip's own format, with or without "local-dir:";
            "hf-hub:owner/name"; or "ARCHITECTURE:WEIGHTS", such as "ViT-B-32:openai".
        flag: What asked for it, for the message.

    Raises:
        StudioError: nothing loadable is behind the name.
    """
    source, pretrained = _locate(name, flag)
    try:
        # Some published weights were trained with QuickGELU; open_clip warns, but goes on without.
        tag = open_clip.get_pretrained_cfg(source, pretrained) if pretrained else {}
        model, _, preprocess = open_clip.create_model_and_transforms(
            source,
            pretrained=pretrained,
            device=device,
            force_quick_gelu=tag.get("quick_gelu", False),
        )
        tokenize = open_clip.get_tokenizer(source)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise StudioError(f"{flag}: {name!r} could not be loaded: {reason}") from error
    model.requires_grad_(False).eval()
    return Scorer(name, model, preprocess, tokenize, torch.device(device))  # pyright: ignore


def _locate(name: str, flag: str) -> tuple[str, str | None]:
    """open_clip's (model name, pretrained tag) behind a scorer's name."""
    if name.startswith("hf-hub:"):
        return name, None
    path = embedded("mini-clip") if name == EMBEDDED else Path(name.removeprefix("local-dir:"))
    folder = path.expanduser()
    if folder.is_dir():
        if not (folder / CONFIG).is_file() or not any(folder.glob("*.safetensors")):
            raise StudioError(
                f"{flag}: expected {CONFIG} and a safetensors file in {folder}; they are not "
                "there. Give a folder saved in open_clip's format."
            )
        return f"local-dir:{folder}", None
    architecture, _, tag = name.partition(":")
    if tag and architecture in open_clip.list_models():
        if tag not in open_clip.list_pretrained_tags_by_model(architecture):
            known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            raise StudioError(f"{flag}: {architecture} has no weights {tag!r}; it has {known}.")
        return architecture, tag
    raise StudioError(
        f"{flag}: expected 'embedded', a folder, 'hf-hub:owner/name' or ARCHITECTURE:WEIGHTS "
        f"such as ViT-B-32:openai; got {name!r}, which is none of them here."
    )


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
