"""Options of the embedded language model's pretraining."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LanguageSettings:
    """Pretrain the miniature LLaMA."""

    out: Path = Path("assets")
    """Folder for mini-llama/."""
    report: Path = Path("runs/pretrain-llama")
    """Folder for the training state that `--resume` goes on from."""
    seconds: float = 300.0
    """Training time, compilation left out."""
    documents: int = 4_000_000
    """Texts of the corpus, about 40 tokens each."""
    batch: int = 512
    """Rows of 256 tokens a step."""
    rate: float = 2e-3
    """Peak learning rate."""
    seed: int = 0
    """Draws texts, starting weights and batches."""
    vocabulary: int = 4096
    """Tokens."""
    width: int = 256
    """Of the hidden state; a multiple of 32 times the 2 heads that share a key."""
    layers: int = 8
    """Transformer blocks."""
    save_every: float = 60.0
    """Seconds between saved states."""
    judge_every: float = 20.0
    """Seconds between lines that tell the loss and how many quizzes are right."""
    compile: bool = True
    """Compile; where that fails, run as it is."""
    bfloat16: bool = True
    """Multiply in bfloat16. Off: in float32, which is faster on CPUs that know no bfloat16."""
    device: str = "cuda"
    """Where to train."""
    resume: bool = False
    """Go on from the state in `report`."""
