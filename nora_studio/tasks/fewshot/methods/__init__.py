"""Few-shot methods, one file each. To add one, add its file and an entry here."""

from nora_studio.tasks.fewshot.methods.clip_adapter import ClipAdapter
from nora_studio.tasks.fewshot.methods.contract import FewshotMethod, Learner
from nora_studio.tasks.fewshot.methods.weights import WeightAdapter
from nora_studio.tasks.fewshot.methods.zero_shot import ZeroShot

METHODS: dict[str, FewshotMethod] = {
    "zero-shot": ZeroShot(),
    "clip-lora": WeightAdapter(
        "rslora", "CLIP-LoRA: LoRA in q, k, v of both encoders", "2405.18541"
    ),
    "lora+": WeightAdapter("lora+"),
    "adalora": WeightAdapter("adalora"),
    "dylora": WeightAdapter("dylora"),
    "lora-fa": WeightAdapter("lora-fa"),
    "vera": WeightAdapter("vera"),
    "nora": WeightAdapter("nora"),
    "clip-adapter": ClipAdapter(),
}
"""Every method by the name that `--method` takes."""

__all__ = ["METHODS", "FewshotMethod", "Learner"]
