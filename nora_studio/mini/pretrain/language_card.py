"""The embedded language model's files, and its card, written from its log."""

import copy
import json
from pathlib import Path

from transformers import LlamaForCausalLM

from nora_studio.mini.pretrain.progress import write_json

LOG = "training.json"


def export_model(folder: Path, model: LlamaForCausalLM) -> None:
    """Write the weights in float16 as transformers loads them."""
    stored = copy.deepcopy(model).cpu().half().eval()  # pyright: ignore
    stored.config.use_cache = True
    stored.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes them private.
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    write_json(folder / "config.json", config)


def write_language_card(folder: Path) -> Path:
    """Write `folder`/README.md from `training.json`."""
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))["language"]
    accuracy = log["accuracy"]
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
    memory = "" if log["peak_gib"] is None else f", {log['peak_gib']} GiB at most"
    text = _CARD.format(memory=memory, size=size, **log, **accuracy)
    card = folder / "README.md"
    temporary = folder / "README.md.part"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(card)
    return card


_CARD = """# Embedded language model

A LLaMA in miniature: {parameters:,} parameters ({size:.1f} MiB, float16), {vocabulary:,} tokens of
its own. It was trained from scratch on {documents:,} short texts that `nora_studio.mini.everyday`
writes about a small everyday world; no other person's work went in.

```python
model = AutoModelForCausalLM.from_pretrained("assets/mini-llama")
tokenizer = AutoTokenizer.from_pretrained("assets/mini-llama")
```

## Training

{tokens:,} tokens of text, {seen:,} seen in {steps:,} steps and {seconds:,.0f} s on
{device}{memory}, torch {torch}. {quiz_share:.0%} of the texts are quizzes, about two fifths of the
facts; the training and test questions of the fine-tuning ask about the others, which the texts only
state.

| quizzes about | right |
|---|---|
| facts that quizzes asked about | {asked:.3f} |
| facts that only stood in the texts | {never_asked:.3f} |

## What it cannot do

It knows one small world: some hundred objects, animals, foods and jobs, and a few causes, ways of
doing things and feelings. Of anything else it knows nothing: on the public commonsense questions it
guesses.

## Rebuild

```
python training/pretrain_mini_llama.py --out assets {options}
```

The seconds are a budget: a slower machine takes fewer steps in them; no rebuild gives the same
bits.
"""
