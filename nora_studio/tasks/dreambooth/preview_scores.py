"""Score a run's previews with CLIP while it trains."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nora_studio.photos.images import open_photo
from nora_studio.photos.prompts import replace_token
from nora_studio.scoring.scores import Scorer, load_scorer
from nora_studio.scoring.similarity import mean_similarity


@dataclass(frozen=True)
class PreviewJudge:
    """A CLIP with the features of the photos and prompts that previews are compared with."""

    scorer: Scorer
    """On the CPU between uses, to leave the device's memory to the training."""
    device: torch.device
    """Device on which it scores."""
    photos: Tensor  # (photos, width), unit vectors
    texts: Tensor  # (prompts, width), unit vectors

    @classmethod
    def load(
        cls, name: str, files: Sequence[Path], prompts: Sequence[str], device: torch.device
    ) -> "PreviewJudge":
        """Load a CLIP by name (`load_scorer`) and encode photos of the subject and the prompts.

        Raises:
            StudioError: no such CLIP can be loaded.
        """
        with torch.random.fork_rng(devices=[]):  # Loading initialises weights at random first.
            scorer = load_scorer(name)
        with _on_device(scorer, device) as clip:
            photos = torch.cat([clip.image_features([open_photo(file)]) for file in files])
            texts = clip.text_features([replace_token(prompt, None) for prompt in prompts])
        return cls(scorer, device, photos, texts)

    def judge(self, pictures: Sequence[Image.Image]) -> dict[str, float]:
        """Return the mean CLIP-I and CLIP-T (as in `scores`) of one image per prompt, in order.

        Returns:
            "sample_clip_i" and "sample_clip_t", their names in the log.
        """
        with _on_device(self.scorer, self.device) as clip:
            features = clip.image_features(pictures)
        return {
            "sample_clip_i": round(mean_similarity(features, self.photos).mean().item(), 6),
            "sample_clip_t": round((features * self.texts).sum(dim=-1).mean().item(), 6),
        }


@contextmanager
def _on_device(scorer: Scorer, device: torch.device) -> Iterator[Scorer]:
    """Move the scorer to a device for a block."""
    home = scorer.device
    try:
        scorer.model.to(device)
        yield replace(scorer, device=device)
    finally:
        scorer.model.to(home)
