"""Adapters in the weights of both encoders: every method of the project's table of adapters."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from nora_studio import __version__
from nora_studio.adapters.base_digests import digests_of
from nora_studio.adapters.files.adapter_folders import load_adapter, load_weights, write_adapter
from nora_studio.adapters.files.card import AdapterCard
from nora_studio.adapters.fingerprints import fingerprint
from nora_studio.adapters.methods.attachment import attach
from nora_studio.adapters.methods.optimizers import LORA_PLUS_RATIO, make_optimizer
from nora_studio.adapters.methods.steps import step_rules
from nora_studio.adapters.methods.table import METHODS
from nora_studio.options.part_settings import PartSettings, resolve
from nora_studio.sdxl.models import share_weights
from nora_studio.tasks.fewshot.attention import PROJECTIONS, TARGETS
from nora_studio.tasks.fewshot.classifier import ClipClassifier
from nora_studio.tasks.fewshot.clip import parts_of
from nora_studio.tasks.fewshot.methods.contract import Learner
from nora_studio.tasks.fewshot.recommended import recommended
from nora_studio.tasks.fewshot.settings import PARTS, FewshotOptions
from nora_studio.tasks.fewshot.task import FewshotTask
from nora_studio.trainer.assembly import adapter_spec, trained_parameters, with_penalty

TASK = "clip few-shot"


class WeightAdapter:
    """One method of adapters on q, k, v of every block of both encoders, as CLIP-LoRA has it."""

    trains = True

    def __init__(self, tuner: str, summary: str | None = None, paper: str | None = None) -> None:
        """Args:
        tuner: A name in the table of adapters, which `summary` and `paper` are taken from.
        """
        self.tuner = tuner
        self.summary = summary or METHODS[tuner].summary
        self.paper = paper or METHODS[tuner].paper

    def check(self, options: FewshotOptions, name: str) -> None:
        self.settings(options, name)

    def settings(self, options: FewshotOptions, name: str) -> dict[str, PartSettings]:
        """Rank, scale and rate in each trained encoder."""
        return resolve(options, name, PARTS, recommended(name, options.model), self.tuner)

    def learn(self, task: FewshotTask, name: str) -> Learner:
        options, settings = task.options, self.settings(task.options, name)
        torch.manual_seed(options.seed)  # Adapter initialisation.
        base = parts_of(task.clip.model)
        prints = {part: fingerprint(base[part]) for part in settings}
        model: Any = share_weights(task.clip.model)
        parts = {part: module for part, module in parts_of(model).items() if part in settings}
        targets = TARGETS if options.targets == "qkvo" else PROJECTIONS
        for part, module in parts.items():
            attach(
                module, targets, adapter_spec(options, self.tuner, settings[part], options.steps)
            )
        rules = step_rules(self.tuner, parts, options.seed)
        step = ClipClassifier(task, model, "vision" in parts, "text" in parts).train()
        with_penalty(step, rules)
        rates = {part: values.learning_rate for part, values in settings.items()}
        optimizer = make_optimizer(
            self.tuner,
            parts,
            rates,
            options.weight_decay,
            options.lora_plus_ratio or LORA_PLUS_RATIO,
            options.optimizer,
            options.warmup_steps,
            max(rates.values()) / 10,
        )
        trained = trained_parameters(parts)
        card = AdapterCard(
            method=self.tuner,
            model=task.clip.name,
            fingerprints=prints,
            trigger="",
            prompt=task.template,
            resolution=task.clip.size,
            steps=0,
            seed=options.seed,
            parameters=sum(parameter.numel() for parameter in trained),
            version=__version__,
            digests=digests_of({part: base[part] for part in settings}),
            task=TASK,
        )
        return Learner(
            step=step,
            optimizer=optimizer,
            parameters=trained,
            rules=rules,
            write=lambda folder, at: write_adapter(folder, parts, card.at(at)),
            load=lambda folder: load_weights(folder, parts, card),
            adapted=parts,
        )

    def read(self, task: FewshotTask, folder: Path | None) -> Any:
        assert folder is not None
        model: Any = share_weights(task.clip.model)
        parts: dict[str, nn.Module] = parts_of(model)
        card = load_adapter(folder, parts)
        model.to(task.clip.device)
        adapted = card.fingerprints
        return ClipClassifier(task, model, "vision" in adapted, "text" in adapted).eval()
