"""The data shared by all few-shot methods: the frozen model, the classes' texts, the shots."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nora_studio.tasks.fewshot.clip import FrozenClip, image_features, text_features
from nora_studio.tasks.fewshot.datasets import Dataset, Picture
from nora_studio.tasks.fewshot.pictures import EvaluationSet, ShotPictures, thinned
from nora_studio.tasks.fewshot.settings import FewshotSettings
from nora_studio.tasks.fewshot.shots import Labelled

PROTOCOL_SCALE = 100.0


@dataclass(frozen=True)
class FewshotData:
    """One dataset, some shots of each class, and the model to adapt to them."""

    settings: FewshotSettings
    clip: FrozenClip
    classes: tuple[str, ...]
    ids: Tensor
    """Token ids of every class's sentence, (classes, tokens)."""
    shots: ShotPictures
    validation: EvaluationSet
    test: EvaluationSet
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Features of the frozen encoders, computed at the first use."""

    @classmethod
    def of(
        cls,
        settings: FewshotSettings,
        clip: FrozenClip,
        dataset: Dataset,
        train: Labelled[Picture],
        validation: Labelled[Picture],
    ) -> "FewshotData":
        """Read the shots and tokenise the classes."""
        sentences = [settings.template.replace("{}", name) for name in dataset.classes]
        test = thinned(dataset.splits["test"], settings.test_pictures)
        return cls(
            settings=settings,
            clip=clip,
            classes=dataset.classes,
            ids=clip.tokenize(sentences).to(clip.device),
            shots=ShotPictures(train, clip.device),
            validation=EvaluationSet(validation, clip.preprocess),
            test=EvaluationSet(test, clip.preprocess),
        )

    @property
    def template(self) -> str:
        """Sentence of a class, with {} for its name."""
        return self.settings.template

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines."""
        if self.settings.logit_scale == "model":
            return float(self.clip.model.logit_scale.detach().float().exp())
        return PROTOCOL_SCALE

    def pixels(self, places: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
        """Return normalised crops of the shots, (batch, 3, size, size)."""
        return self.clip.normalize(self.shots.views(places, boxes, flips, self.clip.size))

    @torch.no_grad()
    def frozen_texts(self) -> Tensor:
        """Return the frozen text encoder's features of the classes, (classes, width)."""
        if "texts" not in self.known:
            self.known["texts"] = text_features(self.clip.model, self.ids)
        return self.known["texts"]

    @torch.no_grad()
    def frozen_shots(self) -> Tensor:
        """Return the frozen image encoder's features of centre-cropped shots, (shots, width)."""
        if "shots" not in self.known:
            boxes, each = self.shots.middles(), torch.arange(len(self.shots.labels))
            parts = [
                image_features(
                    self.clip.model,
                    self.pixels(some, boxes[some], torch.zeros(len(some), dtype=torch.bool)),
                )
                for some in each.split(self.settings.trainer.learning.batch_size)
            ]
            self.known["shots"] = torch.cat(parts)
        return self.known["shots"]
