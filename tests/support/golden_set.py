"""Where the files of earlier versions lie."""

from support.trainer import SCRIPT

TASKS = {
    "stopped": (SCRIPT, ("nora", "lora")),
    "tiny": (SCRIPT.with_name("clip_fewshot.py"), ("nora", "clip-lora")),
    "q": (SCRIPT.with_name("llama_commonsense.py"), ("nora", "adalora")),
}
