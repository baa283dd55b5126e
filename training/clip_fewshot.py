"""Adapt a CLIP to a few images of each class with NoRA, CLIP-LoRA or others, and test it.

    python training/clip_fewshot.py --shots 4 --method nora,clip-lora,zero-shot
    python training/clip_fewshot.py --model ViT-B-16:openai --dataset dtd --data-dir data \\
        --shots 16 --seed 1 --method clip-lora,nora

Writes one run folder for each method (`runs/embedded-4shots-seed0-nora`), with the adapter, the
names of the sampled images (`shots.json`) and top-1 on the test split (`scores.json`).
Protocol: CLIP-LoRA (arXiv 2405.18541), which Table 2 of arXiv 2408.10280 follows.
Exit status: 0 done, 2 bad input or a failed run, 128 + n stopped by signal n.
"""

import sys

from nora_studio.runs.stop import end_on_early_interrupt

if __name__ == "__main__":
    end_on_early_interrupt()

from nora_studio.tasks.fewshot.task import FewshotTask
from nora_studio.trainer.lifecycle import run
from nora_studio.trainer.run_session import RunSession

if __name__ == "__main__":
    sys.exit(RunSession().run(lambda session: run(FewshotTask(), session)))
