"""Fidelity over the steps: a run's own samples, judged by CLIP while it trains."""

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


@dataclass(frozen=True)
class PreviewJudge:
    """A CLIP with what the samples are held against, encoded once."""

    scorer: Scorer
    """On the CPU between samplings, so that training has the device's memory."""
    device: torch.device
    """Where it judges."""
    photos: Tensor  # (photos, width), unit vectors
    texts: Tensor  # (prompts, width), unit vectors

    @classmethod
    def load(
        cls, name: str, files: Sequence[Path], prompts: Sequence[str], device: torch.device
    ) -> "PreviewJudge":
        """Load a CLIP by name (`load_scorer`) and encode photos of the subject and the prompts.

        Raises:
            StudioError: nothing loadable is behind the name.
        """
        with torch.random.fork_rng(devices=[]):  # It draws weights before it reads them.
            scorer = load_scorer(name)
        with _awake(scorer, device) as awake:
            photos = torch.cat([awake.image_features([open_photo(file)]) for file in files])
            texts = awake.text_features([replace_token(prompt, None) for prompt in prompts])
        return cls(scorer, device, photos, texts)

    def judge(self, pictures: Sequence[Image.Image]) -> dict[str, float]:
        """Mean CLIP-I and CLIP-T (as in `scores`) of one picture for each prompt, in their order.

        Returns:
            "sample_clip_i" and "sample_clip_t", as the log has them.
        """
        with _awake(self.scorer, self.device) as awake:
            drawn = awake.image_features(pictures)
        return {
            "sample_clip_i": round((drawn @ self.photos.T).mean().item(), 6),
            "sample_clip_t": round((drawn * self.texts).sum(dim=-1).mean().item(), 6),
        }


@contextmanager
def _awake(scorer: Scorer, device: torch.device) -> Iterator[Scorer]:
    """Move the scorer to a device for a block."""
    home = scorer.device
    try:
        scorer.model.to(device)
        yield replace(scorer, device=device)
    finally:
        scorer.model.to(home)
