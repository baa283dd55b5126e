"""Personalise SDXL from a folder of photos with NoRA, LoRA, or both as twins.

    accelerate launch training/dreambooth_nora.py \\
        --instance-dir photos/my-mug --prompt "a photo of a [V] mug" --method nora,lora

Writes one run folder for each method (`runs/my-mug-nora`, `runs/my-mug-lora`).
With several processes (`accelerate launch --num_processes 4`), each takes a share of every batch.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys

from nora_studio.runs.stop import end_on_early_interrupt

if __name__ == "__main__":
    end_on_early_interrupt()

from nora_studio.tasks.dreambooth.task import DreamboothTask
from nora_studio.trainer.lifecycle import run
from nora_studio.trainer.run_session import RunSession

if __name__ == "__main__":
    sys.exit(RunSession().run(lambda session: run(DreamboothTask(), session)))
