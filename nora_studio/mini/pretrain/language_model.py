"""The miniature LLaMA: its architecture, its training, and quizzes that measure it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nora_studio.mini.everyday.corpus import quiz
from nora_studio.mini.everyday.facts import all_facts
from nora_studio.mini.pretrain.devices import is_gpu, synchronize
from nora_studio.mini.pretrain.language_settings import LanguageSettings
from nora_studio.mini.pretrain.language_text import CONTEXT, pad_texts
from nora_studio.mini.pretrain.optimization import build_optimizer, set_rate
from nora_studio.mini.pretrain.progress import Progress

ROW = 256
"""Tokens of a training row: the cutoff of fine-tuning on the questions."""
STATE = "state.safetensors"


def build_model(settings: LanguageSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build a LLaMA with grouped-query heads, tied embeddings and random float32 weights."""
    heads = settings.width // 32
    special: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.width,
        intermediate_size=settings.width * 11 // 4,
        num_hidden_layers=settings.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_cache=False,
        **special,
    )
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(config)


@dataclass
class Corpus:
    """The corpus as token ids on the device, and the positions where texts begin."""

    ids: Tensor  # (tokens,), int16
    starts: Tensor  # (texts,), int64

    @classmethod
    def from_ids(cls, ids: np.ndarray, start: int, device: str) -> "Corpus":
        """Put token ids on the device; `start` is the first token of every text."""
        begins = np.flatnonzero(ids[: len(ids) - ROW] == start)
        return cls(torch.from_numpy(ids).to(device), torch.from_numpy(begins).to(device))

    def batch(self, rows: int, step: int, seed: int) -> Tensor:  # (rows, ROW), int64
        """Sample rows that begin with a text; they depend only on the seed and the step."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(self.starts), (rows,), generator=generator)
        begins = self.starts[chosen.to(self.starts.device)]
        offsets = torch.arange(ROW, device=begins.device)
        return self.ids[begins[:, None] + offsets].long()


@dataclass
class Training:
    """A model in training, with its optimizer and progress."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def begin(cls, model: LlamaForCausalLM, rate: float) -> "Training":
        """Start a training with a new optimizer at a peak learning rate."""
        weights = list(model.parameters())
        return cls(model, build_optimizer(weights, rate, 0.95, 0.05))

    def save(self, folder: Path) -> None:
        """Save weights, optimizer and progress atomically."""
        tensors = {f"w.{n}": p.detach().cpu() for n, p in enumerate(self.model.parameters())}
        for n, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{n}": value.cpu() for name, value in state.items()}
        tensors["clock"] = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{STATE}.part"
        save_file(tensors, temporary)
        temporary.replace(folder / STATE)

    def restore(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        tensors = load_file(folder / STATE)
        self.step, self.seconds = int(tensors["clock"][0]), float(tensors["clock"][1])
        state: dict[int, dict[str, Tensor]] = {}
        for n, parameter in enumerate(self.model.parameters()):
            parameter.data.copy_(tensors[f"w.{n}"])
            names = ("step", "exp_avg", "exp_avg_sq")
            state[n] = {name: tensors[f"{name}.{n}"] for name in names if f"{name}.{n}" in tensors}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


class NextTokenLoss(torch.nn.Module):
    """A model's mean next-token loss over whole rows, as one module, so that it compiles."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        """Return the loss of rows of token ids."""
        logits = self.model(input_ids=rows, use_cache=False).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def train(
    training: Training,
    corpus: Corpus,
    settings: LanguageSettings,
    clock: Progress,
    stops: Callable[[], bool],
    judge: Callable[[], dict[str, float]],
) -> bool:
    """Train for the configured seconds; return whether training ended without being stopped."""
    device, model = settings.device, training.model.train()
    loss_of = NextTokenLoss(model)
    if settings.compile:
        torch._dynamo.config.suppress_errors = True  # Fall back to eager.
        loss_of = torch.compile(loss_of)
    started, saved, first = 0.0, training.seconds, training.step
    while training.seconds < settings.seconds:
        set_rate(training.optimizer, settings.rate, training.seconds / settings.seconds)
        rows = corpus.batch(settings.batch, training.step, settings.seed)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=settings.bfloat16):
            loss = loss_of(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.step += 1
        if training.step - first <= 3:  # Compilation happens in them.
            synchronize(device)
            started = clock.seconds() - training.seconds
            continue
        if training.step % (20 if is_gpu(device) else 1) == 0:
            synchronize(device)
            training.seconds = clock.seconds() - started
        due = clock.is_due(settings.judge_every)
        if due:
            tokens = training.step * settings.batch * ROW
            figures = {"loss": loss.item(), **judge()}
            words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            clock.say(f"step {training.step}, {tokens / 1e6:.0f}M tokens, {words}")
        is_stopping = stops()
        if is_stopping or training.seconds - saved > settings.save_every:
            training.save(settings.report)
            saved = training.seconds
        if due or is_stopping:
            started = clock.seconds() - training.seconds  # Time without training does not count.
        if is_stopping:
            return False
    return True


@dataclass(frozen=True)
class Quizzes:
    """Quizzes without the last token of their replies, and that token."""

    rows: Tensor  # (quizzes, tokens), padded on the right
    ends: Tensor  # (quizzes,): index of the last token
    replies: Tensor  # (quizzes,)

    @classmethod
    def build(
        cls, parts: tuple[str, ...], tokenizer: PreTrainedTokenizerFast, device: str, count: int
    ) -> "Quizzes":
        """Write quizzes about the facts of some parts; every call writes the same ones."""
        rng = random.Random(12345)
        facts = [fact for fact in all_facts() if fact.part in parts]
        pairs = [quiz(rng, rng.choice(facts)) for _ in range(count)]
        whole = [tokenizer(question + reply).input_ids for question, reply in pairs]
        texts, replies = [ids[:-1] for ids in whole], [ids[-1] for ids in whole]
        pad = tokenizer.pad_token_id
        assert isinstance(pad, int)
        rows = torch.from_numpy(pad_texts(texts, pad)).to(device)
        ends = torch.tensor([len(text) - 1 for text in texts], device=device)
        return cls(rows, ends, torch.tensor(replies, device=device))

    @torch.no_grad()
    def accuracy(self, model: LlamaForCausalLM) -> float:
        """Return the share of quizzes whose reply is the most likely of all tokens."""
        right = 0
        for rows, ends, replies in self._batches():
            logits = model(input_ids=rows, use_cache=False).logits
            likeliest = logits[torch.arange(len(rows), device=rows.device), ends].argmax(-1)
            right += int((likeliest == replies).sum())
        return right / len(self.replies)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(self.rows.split(256), self.ends.split(256), self.replies.split(256), strict=True)
