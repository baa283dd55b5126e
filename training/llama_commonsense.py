"""Adapt a causal language model to commonsense questions with NoRA, LoRA, or several as twins.

    python training/llama_commonsense.py --method nora,lora
    accelerate launch --num_processes 4 training/llama_commonsense.py --model huggyllama/llama-7b \\
        --data commonsense_170k.json --method nora

Writes one run folder for each method (`runs/commonsense-nora`, `runs/commonsense-lora`). Without
`--model`, adapts the embedded model to questions about the world of its training texts.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys

from nora_studio.runs.stop import end_on_early_interrupt

if __name__ == "__main__":
    end_on_early_interrupt()

from nora_studio.tasks.commonsense.task import CommonsenseTask
from nora_studio.trainer.lifecycle import run
from nora_studio.trainer.run_session import RunSession

if __name__ == "__main__":
    sys.exit(RunSession().run(lambda session: run(CommonsenseTask(), session)))
