"""Options of the embedded language model's pretraining."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LanguageSettings:
    """Pretrain the miniature LLaMA."""

    out: Path = Path("assets")
    """Folder for mini-llama/."""
    report: Path = Path("runs/pretrain-llama")
    """Folder for the training state that `--resume` continues from."""
    seconds: float = 300.0
    """Training time, without compilation."""
    documents: int = 4_000_000
    """Texts of the corpus, about 40 tokens each."""
    batch: int = 512
    """Rows of 256 tokens per step."""
    rate: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Seed of the texts, the initial weights and the batches."""
    vocabulary: int = 4096
    """Tokens in the vocabulary."""
    width: int = 256
    """Width of the hidden state: a multiple of 64, 32 for each of 2 heads that share a key."""
    layers: int = 8
    """Transformer blocks."""
    save_every: float = 60.0
    """Seconds between saved states."""
    judge_every: float = 20.0
    """Seconds between printed lines with the loss and the share of correct quizzes."""
    compile: bool = True
    """Compile the model; run it uncompiled if that fails."""
    bfloat16: bool = True
    """Multiply in bfloat16. Off: in float32, which is faster on CPUs without bfloat16 support."""
    device: str = "cuda"
    """Device to train on."""
    resume: bool = False
    """Continue from the state in `report`."""
