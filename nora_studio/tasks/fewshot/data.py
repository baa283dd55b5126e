"""What every few-shot method is given: the frozen model, the classes' texts, the shots."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nora_studio.tasks.fewshot.clip import FrozenClip, image_features, text_features
from nora_studio.tasks.fewshot.datasets import Dataset, Picture
from nora_studio.tasks.fewshot.pictures import Exam, ShotPictures, thinned
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
    """(classes, tokens): every class in its sentence."""
    shots: ShotPictures
    validation: Exam
    test: Exam
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """What the frozen encoders said, once asked."""

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
            validation=Exam(validation, clip.preprocess),
            test=Exam(test, clip.preprocess),
        )

    @property
    def template(self) -> str:
        """A class in a sentence, {} for its name."""
        return self.settings.template

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by."""
        if self.settings.logit_scale == "model":
            return float(self.clip.model.logit_scale.detach().float().exp())
        return PROTOCOL_SCALE

    def pixels(self, places: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
        """Return views of the shots as the image encoder wants them, (batch, 3, size, size)."""
        return self.clip.normalize(self.shots.views(places, boxes, flips, self.clip.size))

    @torch.no_grad()
    def frozen_texts(self) -> Tensor:
        """(classes, width): what the frozen text encoder says of each class, asked once."""
        if "texts" not in self.known:
            self.known["texts"] = text_features(self.clip.model, self.ids)
        return self.known["texts"]

    @torch.no_grad()
    def frozen_shots(self) -> Tensor:
        """(pictures, width): the frozen image encoder's features of the plain shots, asked once."""
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
