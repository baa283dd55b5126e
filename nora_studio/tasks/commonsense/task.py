"""Commonsense questions as a task: an adapted language model, verified by its logits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from typing_extensions import override

from nora_studio.adapters.base_digests import disable_disk_cache
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.options.groups.checks import filled
from nora_studio.options.options_file import parse
from nora_studio.runs import processes
from nora_studio.runs.runs import Run
from nora_studio.sdxl.models import share_weights
from nora_studio.tasks.commonsense.batches import QuestionBatches
from nora_studio.tasks.commonsense.defaults import with_recommended, with_steps
from nora_studio.tasks.commonsense.examples import Batch, Example, collate, encode
from nora_studio.tasks.commonsense.models import load_decoder, load_tokenizer
from nora_studio.tasks.commonsense.options import PARTS, CommonsenseOptions
from nora_studio.tasks.commonsense.recommended import recommended
from nora_studio.tasks.commonsense.rows import digest, split, training_rows
from nora_studio.tasks.commonsense.settings import CommonsenseSettings, resolve
from nora_studio.tasks.commonsense.step import AnswerStep
from nora_studio.trainer.build import adapt, learner
from nora_studio.trainer.task import Learner, Task, Verification
from nora_studio.trainer.train_state import BatchSource, TrainState

(PART,) = PARTS
TASK = "commonsense"
MEASURED_ROWS = 16
"""Number of validation questions in a batch."""


class CommonsenseTask(Task):
    """Adapt a causal language model to commonsense questions."""

    data, rows = "questions", "examples"
    settings: CommonsenseSettings
    decoder: nn.Module
    """The frozen base."""
    validation: Sequence[Batch]
    """Fixed batches of the validation questions."""

    @override
    def read_options(self) -> CommonsenseOptions:
        return with_recommended(parse(CommonsenseOptions))

    @override
    def complete(self, options: CommonsenseOptions) -> CommonsenseOptions:
        """Load and encode the data, kept for the run; fill in the steps that depend on it."""
        found = training_rows(options.data)
        self.record = {name: digest(rows) for name, rows in found.items()}
        self.tokenizer = load_tokenizer(options.model)
        rows, held_out = split(found, filled(options.validation), options.seed)
        encode_row = partial(
            encode,
            tokenizer=self.tokenizer,
            cutoff=options.cutoff,
            train_on_inputs=filled(options.train_on_inputs),
        )
        self.examples = [encode_row(row) for row in rows]
        self.held_out = [encode_row(row) for row in held_out]
        return with_steps(options, self.examples)

    @override
    def resolve(self, options: CommonsenseOptions) -> CommonsenseSettings:
        return resolve(options)

    @override
    def memory_saving_tips(self) -> Sequence[str]:
        settings = self.settings
        return [
            *([] if settings.gradient_checkpointing else ["--gradient-checkpointing"]),
            *([] if settings.bits != 16 else ["--base-bits 8 or 4"]),
            "a smaller --batch-size, --cutoff or more --accumulate",
        ]

    @override
    def read_data(self, runs: dict[str, Run]) -> Mapping[str, str]:
        """Return the digests of the data, which `complete` has read."""
        return self.record

    @override
    def prepare(self, dtype: torch.dtype, accelerator: Accelerator) -> None:
        settings, say = self.settings, accelerator.print
        say(f"Loading {settings.model} ({dtype}, {accelerator.device})")
        self.decoder = load_decoder(settings.model, dtype, accelerator.device, settings.bits)
        if not self.trainer.tuning.cache:
            disable_disk_cache(self.decoder)
        self.validation = validation_batches(self.held_out, self.tokenizer.pad_token_id)
        counts = f"{len(self.examples):,} questions, {len(self.held_out)} held out"
        say(f"{counts}; {self.trainer.learning.steps:,} steps")

    @override
    def batches(self) -> BatchSource:
        settings, learning = self.settings, self.trainer.learning
        return QuestionBatches(
            self.examples,
            learning.batch_size,
            self.tokenizer.pad_token_id,
            learning.seed,
            settings.group_by_length,
            settings.cutoff if settings.packing else None,
        )

    @override
    def build(self, method: str, run: Run, accelerator: Accelerator) -> Learner:
        settings = self.settings
        tree: Any = self.decoder if self.sharding else share_weights(self.decoder)
        adapted = adapt(
            settings.trainer,
            method,
            settings.trainer.parts[method],
            {PART: self.decoder},
            {PART: tree},
            lambda part, module: list(settings.targets),
        )
        if self.sharding is not None:
            self.sharding.shard(tree, accelerator.device)
        if settings.gradient_checkpointing:
            tree.gradient_checkpointing_enable({"use_reentrant": False})
        made = learner(
            settings.trainer,
            adapted,
            AnswerStep(tree, adapted.rules).train(),
            {"model": settings.model, "trigger": "", "prompt": "", "resolution": 0, "task": TASK},
            recommended(method, settings.model).rate / 10,
            recomputes=settings.gradient_checkpointing,
        )
        # Graphs of a few lengths would hold memory that the other lengths need.
        lengths = (
            None if settings.packing else "batches have many lengths; --packing gives them one"
        )
        return replace(made, eager=made.eager or lengths)

    @torch.no_grad()
    def evaluate(self, state: TrainState) -> dict[str, float]:
        """Measure the mean loss over the validation questions' labels, without dropout."""
        module: AnswerStep = state.accelerator.unwrap_model(state.model)
        was_training = module.training
        module.eval()
        device = state.accelerator.device
        total, tokens = torch.zeros((), device=device), 0.0
        try:
            with state.accelerator.autocast():
                for batch in self.validation:
                    count = len(batch["share"]) / float(batch["share"][0])  # labels
                    loss = module(**{name: t.to(device) for name, t in batch.items()})
                    total, tokens = total + loss * count, tokens + count
        finally:
            module.train(was_training)
        return {"held_out_loss": (total / tokens).item()}

    def outputs(self, state: TrainState, step: int) -> Tensor | None:
        """Return logits of the trained weights; None if they are not compared."""
        if not self.validation or self.sharding is not None:
            return None
        module: AnswerStep = state.accelerator.unwrap_model(state.model)

        def logits() -> Tensor:
            with state.averaged():
                return last_logits(self.validation[0], module.decoder, state.accelerator)

        return processes.on_main(logits)

    def finish(
        self, run: Run, method: str, outputs: Tensor | None, accelerator: Accelerator
    ) -> Verification | None:
        """Load the adapter on the base: its logits must be the same, and differ from the base's."""
        return processes.on_main(lambda: self._verify(run, method, outputs, accelerator))

    def _verify(
        self, run: Run, method: str, trained: Tensor | None, accelerator: Accelerator
    ) -> Verification:
        if trained is None:
            return Verification(None, "{adapter}: saved.")
        fresh = share_weights(self.decoder)
        load_adapter(run.adapter, {PART: fresh})
        batch = self.validation[0]
        again, bare = (last_logits(batch, one, accelerator) for one in (fresh, self.decoder))
        apart, moved = float((trained - again).abs().max()), float((trained - bare).abs().max())
        # On a CPU the same arithmetic gives the same bytes; GPU kernels may differ by rounding.
        tolerance = 0.0 if accelerator.device.type == "cpu" else 0.05 * max(1.0, moved)
        if apart > tolerance or moved == 0:
            problem = f"the reloaded adapter's logits are off by {apart:.3g}"
            problem = problem if moved else "the adapter has no effect"
            line = f"{method}: {problem}. {run.adapter} is kept for inspection."
            return Verification(problem, line)
        line = f"{{adapter}}: verified on a fresh base; it changes logits by up to {moved:.2f}."
        return Verification(None, line, {"change": round(moved, 3)})


def validation_batches(examples: Sequence[Example], pad: int) -> list[Batch]:
    """Return batches of the validation questions, shortest first, so that little is padded."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    starts = range(0, len(ordered), MEASURED_ROWS)
    return [collate(ordered[start : start + MEASURED_ROWS], pad) for start in starts]


@torch.no_grad()
def last_logits(batch: Batch, decoder: nn.Module, accelerator: Accelerator) -> Tensor:
    """Return a decoder's logits after the questions of a batch, float32 on the CPU."""
    on_device = {name: t.to(accelerator.device) for name, t in batch.items()}
    names = ("input_ids", "attention_mask", "position_ids")
    was_training = decoder.training
    decoder.eval()
    try:
        with accelerator.autocast():
            logits = decoder(**{name: on_device[name] for name in names}, use_cache=False).logits
    finally:
        decoder.train(was_training)
    return logits[:, -1].float().cpu()
