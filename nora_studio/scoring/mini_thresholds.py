"""Measure the miniature model: whether its images show what the prompts say."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from open_clip import CLIP
from torch import Tensor

from nora_studio.mini.pretrain.architecture import IMAGE_SIZE
from nora_studio.mini.pretrain.contrastive import resize_pictures
from nora_studio.mini.pretrain.pictures import save_grid
from nora_studio.mini.pretrain.progress import Progress
from nora_studio.mini.pretrain.vae import measure_psnr
from nora_studio.mini.world import (
    ACCESSORIES,
    CLASSES,
    COLORS,
    EMBLEMS,
    PATTERNS,
    PLACE_PHRASES,
    PLACES,
    STYLES,
    Scenes,
    render,
    sample_scenes,
)
from nora_studio.scoring.clip_files import find_clip_files, load_open_clip

BARS = {"kind": 0.90, "place": 0.85, "main_color": 0.80, "psnr": 30.0}
"""Figures that the embedded model must reach; all others are for information."""

PLAIN, NONE = PATTERNS.index("plain"), ACCESSORIES.index("none")
OPTIONS: dict[str, list[str]] = {
    "kind": CLASSES,
    "place": PLACES,
    "main_color": list(COLORS),
    "pattern": PATTERNS,
    "accessory": ACCESSORIES,
}


@dataclass(frozen=True)
class PromptSet:
    """Scenes with a prompt for each."""

    scenes: Scenes
    prompts: list[str]


def with_article(words: str) -> str:
    """Return words with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def place_phrase(place: str, background: str | None = None) -> str:
    """Return the prompts' phrase for a place; a plain background has its colour if given."""
    phrase = PLACE_PHRASES[place][0]
    if "{" not in phrase:
        return phrase
    return f"on {with_article(background or 'plain')} background"


def sample_prompt_set(count: int, seed: int) -> PromptSet:
    """Sample photo scenes of nameless things, mostly plain, with their prompts."""
    scenes = sample_scenes(4 * count + 64, seed)
    is_photo = (scenes.name < 0) & (scenes.style == STYLES.index("photo"))
    scenes = scenes.select(is_photo.nonzero()[:count, 0])
    number = torch.arange(len(scenes))
    scenes = replace(
        scenes,
        kind=number % len(CLASSES),
        place=number // len(CLASSES) % len(PLACES),
        pattern=torch.where(number % 10 < 7, PLAIN, scenes.pattern),
        accessory=torch.where(number % 10 < 6, NONE, scenes.accessory),
        emblem=torch.full_like(scenes.emblem, EMBLEMS.index("none")),
    )
    return PromptSet(scenes, [write_prompt(scenes, i) for i in range(len(scenes))])


def write_prompt(scenes: Scenes, i: int) -> str:
    """Write the prompt of one scene."""
    colors = list(COLORS)
    look = colors[int(scenes.main_color[i])]
    if scenes.pattern[i] != PLAIN:
        pattern = PATTERNS[int(scenes.pattern[i])]
        look = f"{look} and {colors[int(scenes.second_color[i])]} {pattern}"
    dress = ""
    if scenes.accessory[i] != NONE:
        accessory = ACCESSORIES[int(scenes.accessory[i])]
        dress = f" wearing {accessory if accessory == 'glasses' else with_article(accessory)}"
    place = place_phrase(PLACES[int(scenes.place[i])], colors[int(scenes.background[i])])
    return f"a photo of {with_article(look)} {CLASSES[int(scenes.kind[i])]}{dress} {place}"


def generate(
    pipeline: StableDiffusionXLPipeline,
    prompts: list[str],
    seed: int,
    batch: int,
    steps: int = 25,
    guidance: float = 5.0,
    progress: Progress | None = None,
) -> Tensor:  # (prompts, 3, 256, 256) in [0, 1], on the CPU
    """Generate one image per prompt, each with its own seed, whatever the batch size."""
    images = []
    for start in range(0, len(prompts), batch):
        few = prompts[start : start + batch]
        seeds = range(seed + start, seed + start + len(few))
        output = pipeline(
            few,
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(s) for s in seeds],
            output_type="pt",
            return_dict=False,
        )
        images.append(output[0].float().cpu())
        if progress is not None and progress.is_due():
            progress.say(f"generated {start + len(few)} of {len(prompts)} images")
    return torch.cat(images)


class Judge:
    """The scoring CLIP as a zero-shot classifier."""

    def __init__(self, folder: Path, device: str) -> None:
        """Load the CLIP from its folder."""
        self.device = device
        files = find_clip_files(f"local-dir:{folder}", "--assets")
        model, _, self.tokenize = load_open_clip(files, device)
        assert isinstance(model, CLIP)
        self.model = model.eval()

    @torch.no_grad()
    def image_features(
        self,
        images: Tensor,  # (n, 3, size, size) in [0, 1]
    ) -> Tensor:  # (n, embed_dim)
        """Return unit vectors of images."""
        parts = [resize_pictures(part.to(self.device)) * 2 - 1 for part in images.split(128)]
        features = [self.model.encode_image(part) for part in parts]
        return F.normalize(torch.cat(features), dim=-1)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Tensor:  # (texts, embed_dim)
        """Return unit vectors of texts."""
        ids = self.tokenize(texts).to(self.device)
        return F.normalize(self.model.encode_text(ids), dim=-1)

    def accuracies(
        self,
        scenes: Scenes,
        features: Tensor,  # (scenes, embed_dim): `image_features` of their images
    ) -> dict[str, float | None]:
        """Return the share of images with the right class, place, ...; None if none qualifies.

        The class is chosen among all classes; other attributes among sentences with the true class.
        Colours are judged on plain things, patterns and accessories on things that have one.
        """
        applicable = {
            "kind": torch.ones(len(scenes), dtype=torch.bool),
            "place": torch.ones(len(scenes), dtype=torch.bool),
            "main_color": scenes.pattern == PLAIN,
            "pattern": scenes.pattern != PLAIN,
            "accessory": scenes.accessory != NONE,
        }
        results: dict[str, float | None] = {}
        for attribute, applies in applicable.items():
            chosen = self.choose(attribute, scenes, features)
            right = (chosen == getattr(scenes, attribute))[applies]
            results[attribute] = round(right.float().mean().item(), 4) if len(right) else None
        return results

    def choose(
        self,
        attribute: str,  # a key of OPTIONS
        scenes: Scenes,
        features: Tensor,  # (scenes, embed_dim)
    ) -> Tensor:  # (scenes,)
        """Return for each image the index of the option whose sentence is nearest."""
        options = OPTIONS[attribute]
        texts = [describe(attribute, option, kind) for kind in CLASSES for option in options]
        text_features = self.text_features(texts).view(len(CLASSES), len(options), -1)
        if attribute == "kind":  # Its sentences do not depend on the class.
            text_features = text_features[:1].expand_as(text_features)
        own = text_features[scenes.kind.to(self.device)]
        return torch.einsum("nd,nod->no", features, own).argmax(1).cpu()


def describe(attribute: str, option: str, kind: str) -> str:
    """Return the sentence for one option."""
    if attribute == "kind":
        return f"a photo of {with_article(option)}"
    if attribute == "place":
        return f"a photo of {with_article(kind)} {place_phrase(option)}"
    if attribute == "accessory":
        if option == "none":
            return f"a photo of {with_article(kind)}"
        return f"a photo of {with_article(kind)} wearing {with_article(option)}"
    return f"a photo of {with_article(option)} {kind}"


def measure(
    pipeline: StableDiffusionXLPipeline,
    scorer: Path,
    device: str,
    count: int,
    batch: int,
    grid: Path,
    steps: int = 25,
    seed: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Generate images for `count` prompts, judge them and renders of the same scenes, write a grid.

    Returns:
        The figures, the bars and whether each is met, ready for JSON.
    """
    prompt_set = sample_prompt_set(count, seed)
    images = generate(pipeline, prompt_set.prompts, seed, batch, steps, progress=progress)
    shown = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:100]
    save_grid(F.interpolate(images[shown], scale_factor=0.5, mode="area"), 10, grid)
    rendered = [
        render(prompt_set.scenes.select(slice(i, i + 64)), IMAGE_SIZE, device).cpu()
        for i in range(0, count, 64)
    ]
    judge = Judge(scorer, device)
    generated = judge.accuracies(prompt_set.scenes, judge.image_features(images))
    generated["psnr"] = round(measure_psnr(pipeline.vae, device, min(256, count)), 2)
    return {
        "prompts": count,
        "seed": seed,
        "steps": steps,
        "guidance": 5.0,
        "drawn": generated,
        "ceiling": judge.accuracies(prompt_set.scenes, judge.image_features(torch.cat(rendered))),
        "bars": BARS,
        "passed": {name: (generated[name] or 0) >= bar for name, bar in BARS.items()},
        "examples": [prompt_set.prompts[i] for i in shown[:10].tolist()],
    }
