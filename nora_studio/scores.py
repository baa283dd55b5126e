"""Judge pictures with CLIP and DINO, and compare two sets of scores pair by pair."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

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
RESAMPLES_AT_ONCE = 500
CONFIDENCE = 0.95
UNITS_FOR_A_VERDICT = 6
"""With fewer, even units that all agree have a sign-test p above 0.05: 2 * 0.5**5 = 0.0625."""


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

    def words_unread(self, prompt: str) -> str:
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


class Difference(NamedTuple):
    """A mean difference with its 95% interval."""

    mean: float
    low: float
    high: float


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    groups: Sequence[str | int] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean of a - b with a bootstrap interval over pairs, or over groups of pairs.

    Pairs that share a prompt or a subject are alike, so whole groups are drawn. The plain
    percentile interval is too narrow for few groups; this is the expanded one (Hesterberg,
    The American Statistician 69(4), 2015, 5.3): percentiles at the level of Student's t.

    Args:
        a, b: Scores of the same prompts and seeds, in the same order.
        groups: A label for each pair; None makes every pair its own group.
        seed: Of the resampling; the same seed gives the same interval.

    Raises:
        StudioError: lengths differ, a score is NaN, or there are fewer than two groups.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise StudioError(
            f"expected as many scores on both sides and a group for each; got {len(a)} and "
            f"{len(b)}" + (f" with {len(groups)} groups." if groups is not None else ".")
        )
    delta = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    if not torch.isfinite(delta).all():
        raise StudioError("a score is NaN or infinite. Score the pictures again.")
    labels = list(range(len(a))) if groups is None else list(groups)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    if len(numbers) < 2:
        raise StudioError(
            f"an interval needs at least two independent pairs or groups; got {len(numbers)}. "
            "Add prompts or seeds."
        )
    member = torch.tensor([numbers[label] for label in labels])
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, member, delta)
    counts = torch.bincount(member, minlength=len(numbers)).double()
    means = _resample_means(sums, counts, resamples, seed)
    tail = _expanded_tail(len(numbers))
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Difference(delta.mean().item(), low, high)


def _resample_means(sums: Tensor, counts: Tensor, resamples: int, seed: int) -> Tensor:
    """Means over all members of groups drawn with replacement, (resamples,)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        shape = (min(RESAMPLES_AT_ONCE, resamples - start), len(sums))
        drawn = torch.randint(len(sums), shape, generator=generator)
        rows.append(sums[drawn].sum(dim=1) / counts[drawn].sum(dim=1))
    return torch.cat(rows)


def _expanded_tail(units: int) -> float:
    """Share of resamples left out on each side, for a 95% interval from this many units."""
    normal, freedom = NormalDist(), units - 1
    z = normal.inv_cdf(0.5 + CONFIDENCE / 2)
    # Student's t from the normal quantile: Abramowitz & Stegun 26.7.5.
    t = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return normal.cdf(-math.sqrt(units / freedom) * t)


def verdict(
    difference: Difference, units: int, first: str, second: str, unit: str = "prompts"
) -> str:
    """Say in plain words what a difference shows.

    Args:
        difference: Of `first` minus `second`.
        units: Independent pairs or groups behind it.
        unit: What they are, in the plural.
    """
    if units < UNITS_FOR_A_VERDICT:
        return f"too few {unit} to tell ({units}; at least {UNITS_FOR_A_VERDICT} are needed)"
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    ahead, behind = (first, second) if difference.mean > 0 else (second, first)
    return f"{ahead} higher than {behind}"
