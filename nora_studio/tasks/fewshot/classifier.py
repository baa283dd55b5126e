"""A CLIP as a classifier: images compared with the sentences of their classes."""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nora_studio.adapters.methods.step_rules import PlainSteps, StepRules, with_penalty
from nora_studio.tasks.fewshot.clip import image_features, text_features
from nora_studio.tasks.fewshot.data import FewshotData


class Classifier(Protocol):
    """The interface of a method's module for evaluation."""

    def class_features(self) -> Tensor:
        """Return the features that images are compared with; called once for a whole test."""
        ...

    def logits(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return the logits of a batch: (batch, classes), float32.

        Args:
            pixels: Images normalised by `FrozenClip.normalize`.
            classes: The result of `class_features`.
        """
        ...


class ClipClassifier(nn.Module):
    """Cosines of image and class features, times the scale; its forward returns the loss.

    The features of a frozen text encoder are computed once. So are those of a frozen image encoder
    if the images are not augmented; random crops are encoded at each step.
    """

    def __init__(
        self,
        task: FewshotData,
        model: Any,
        trains_vision: bool,
        trains_text: bool,
        rules: StepRules | None = None,  # the method's, whose penalty is added to the loss
    ) -> None:
        super().__init__()
        self.model, self.rules = model, rules or PlainSteps()
        # Not modules: all twins share them.
        self.pixels, self.scale = task.pixels, task.logit_scale
        self.register_buffer("ids", task.ids, persistent=False)
        texts = None if trains_text else task.frozen_texts()
        kept = not trains_vision and not task.settings.augment
        self.register_buffer("texts", texts, persistent=False)
        self.register_buffer("shots", task.frozen_shots() if kept else None, persistent=False)

    def class_features(self) -> Tensor:
        """Return the features of the classes: (classes, width), unit vectors."""
        if self.texts is not None:
            return self.get_buffer("texts")
        return text_features(self.model, self.get_buffer("ids"))

    def logits(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """Return the scaled cosines of images and classes: (batch, classes), float32."""
        return self._compare(image_features(self.model, pixels), classes)

    def _compare(self, features: Tensor, classes: Tensor) -> Tensor:
        # Autocast would round cosines to half precision, an error of about one logit when scaled.
        with torch.autocast(features.device.type, enabled=False):
            return self.scale * features.float() @ classes.float().T

    def forward(
        self,
        labels: Tensor,  # (batch,)
        places: Tensor,  # (batch,): indices of shots
        boxes: Tensor,  # (batch, 4)
        flips: Tensor,  # (batch,)
    ) -> Tensor:
        """Return the mean cross-entropy of a batch (scalar, float32)."""
        if self.shots is not None:
            features = self.get_buffer("shots")[places]
        else:
            features = image_features(self.model, self.pixels(places, boxes, flips))
        loss = F.cross_entropy(self._compare(features, self.class_features()), labels)
        return with_penalty(loss, self.rules)
