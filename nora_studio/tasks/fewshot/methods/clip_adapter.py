"""CLIP-Adapter: a small bottleneck after the frozen image encoder."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from nora_studio.adapters.base_digests import base_digest, digests_differ
from nora_studio.adapters.fingerprints import fingerprint, fingerprints_agree
from nora_studio.adapters.methods.step_rules import PlainSteps
from nora_studio.errors import StudioError, format_value
from nora_studio.options.part_settings import PartSettings, resolve
from nora_studio.runs.remedies import get_again
from nora_studio.runs.strict_json import JsonObject
from nora_studio.runs.tensor_files import read_tensors, write_tensors
from nora_studio.runs.tensor_headers import read_header
from nora_studio.tasks.fewshot.classifier import ClipClassifier
from nora_studio.tasks.fewshot.data import FewshotData
from nora_studio.tasks.fewshot.methods.contract import FewshotMethod
from nora_studio.tasks.fewshot.options import PARTS, FewshotOptions
from nora_studio.tasks.fewshot.recommended import recommended
from nora_studio.trainer.task import Learner

FILE = "clip_adapter.safetensors"
BLEND = 0.2
"""The paper's alpha: share of the bottleneck's output in an image's features."""


class BottleneckClassifier(ClipClassifier):
    """Image features f become (1 - a) f + a relu(W2 relu(W1 f)), a = `BLEND`; eq. 3 and 5."""

    def __init__(self, task: FewshotData, ratio: int) -> None:
        super().__init__(task, task.clip.model, False, False)
        width = task.frozen_texts().shape[1]
        self.squeeze = nn.Linear(width, width // ratio, bias=False, device=task.clip.device)
        self.widen = nn.Linear(width // ratio, width, bias=False, device=task.clip.device)

    def _compare(self, features: Tensor, classes: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            added = self.widen(self.squeeze(features.float()).relu()).relu()
            mixed = F.normalize((1 - BLEND) * features.float() + BLEND * added, dim=-1)
        return super()._compare(mixed, classes)

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the bottleneck's weights by name."""
        layers = {"squeeze": self.squeeze, "widen": self.widen}
        return {f"{name}.weight": layer.get_parameter("weight") for name, layer in layers.items()}


class ClipAdapter(FewshotMethod):
    """Gao et al., arXiv 2110.04544: the visual adapter, with the text features frozen."""

    summary = "CLIP-Adapter: a bottleneck after the frozen image encoder"
    paper, tuner, trains = "2110.04544", "", True

    @override
    def check(self, options: FewshotOptions, name: str) -> None:
        if options.optimizer != "adamw":
            raise StudioError(f"--optimizer {options.optimizer}: {name} supports only adamw.")
        self.part_settings(options, name)

    def part_settings(self, options: FewshotOptions, name: str) -> dict[str, PartSettings]:
        """Resolve the bottleneck's ratio (as a rank) and rate, from the image encoder's options."""
        usual = recommended(name, options.model)
        return {"vision": resolve(options, name, PARTS, usual)["vision"]}

    @override
    def learn(self, task: FewshotData, name: str) -> Learner:
        trainer = task.settings.trainer
        learning, size = trainer.learning, trainer.parts[name]["vision"]
        torch.manual_seed(learning.seed)
        step = BottleneckClassifier(task, size.rank).train()
        step.requires_grad_(False)
        trained = list(step.trained().values())
        for parameter in trained:
            parameter.requires_grad_(True)
        groups = [{"name": "vision", "params": trained, "lr": size.learning_rate}]
        optimizer = torch.optim.AdamW(groups, weight_decay=learning.weight_decay)
        visual = task.clip.model.visual
        prints, digest = fingerprint(visual), base_digest(visual)

        def write(folder: Path, at: int) -> None:
            facts = {"steps": at, "fingerprint": prints, "ratio": size.rank}
            facts |= {"digest": digest} if digest else {}
            tensors = {key: value.detach().cpu() for key, value in step.trained().items()}
            write_tensors(folder / FILE, tensors, {"clip_adapter": json.dumps(facts)})

        return Learner(
            step=step,
            optimizer=optimizer,
            parameters=trained,
            rules=PlainSteps(),
            write=write,
            load=lambda folder: _fill(step, folder),
        )

    @override
    def read(self, task: FewshotData, folder: Path | None) -> ClipClassifier:
        assert folder is not None
        facts = _facts(folder)
        visual = task.clip.model.visual
        agree = fingerprints_agree(facts["fingerprint"], fingerprint(visual))
        if not agree or digests_differ(facts.get("digest", ""), base_digest(visual)):
            raise StudioError(
                f"{folder} was trained on another CLIP than {task.clip.name}. Name that one with "
                "--model."
            )
        step = BottleneckClassifier(task, facts["ratio"])
        _fill(step, folder)
        return step.eval()


def _facts(folder: Path) -> JsonObject:
    try:
        return json.loads(read_header(folder / FILE).metadata["clip_adapter"])
    except StudioError:
        raise
    except (KeyError, ValueError) as error:
        lacks = "its header lacks " if isinstance(error, KeyError) else ""
        problem = f"{folder / FILE} is not a CLIP-Adapter: {lacks}{error}."
        raise StudioError(f"{problem} {get_again(folder)}") from error


def _fill(step: BottleneckClassifier, folder: Path) -> None:
    saved, wanted = read_tensors(folder / FILE), step.trained()
    shapes = {name: tensor.shape for name, tensor in saved.items()}
    if shapes != {name: parameter.shape for name, parameter in wanted.items()}:
        got = format_value({name: tuple(shape) for name, shape in shapes.items()})
        raise StudioError(
            f"{folder / FILE} does not hold the expected tensors (got {got}). {get_again(folder)}"
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(saved[name])
