"""Identify the kind of an adapter file, of this project or another tool, by its header."""

import re
from dataclasses import dataclass

from nora_studio.adapters.peft_names import PEFT_PREFIX
from nora_studio.runs.tensor_headers import Header

SEED_KEY = "nora_studio_seed"
CARD_KEY = "nora_studio"
EMBEDDINGS = "embeddings.safetensors"
"""The file of new tokens in an adapter folder."""

_LYCORIS = {
    "hada_w1": "LoHa",
    "lokr_w": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    "boft": "BOFT",
    "glora": "GLoRA",
    "ia3": "IA3",
}
_PEFT = {
    "nora_": "NoRA",
    "lora_xs": "LoRA-XS",
    "lora_magnitude_vector": "DoRA",
    "lora_": "LoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "vera_": "VeRA",
    "vblora_": "VB-LoRA",
    "randlora_": "RandLoRA",
}
SDXL = "SDXL"
_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: SDXL}
OTHER_BASES = frozenset(_WIDTHS.values()) - {SDXL}
_OTHER_MODELS = ("transformer.", "diffusion_model.", "lora_transformer_", "lora_unet_double_blocks")
_MODEL_STARTS = (
    "model.diffusion_model.",
    "conditioner.",
    "first_stage_model.",
    "cond_stage_model.",
)
_LORA_ENDING = re.compile(r"[._](lora_up|lora_down|lora_A|lora_B|lora\.up|lora\.down)\b")


@dataclass(frozen=True)
class Identity:
    """The kind of an adapter file."""

    kind: str
    """One of: folder, seed, kohya, diffusers, peft, lycoris, other-lora, embedding, model,
    unknown."""
    method: str
    """The adapter method in text: "NoRA", "LoRA", "DoRA", "LoHa"; empty if there is none."""
    base: str = ""
    """The base it was made for, if the shapes show it."""

    @property
    def is_portable(self) -> bool:
        """Whether this project can load it onto an SDXL."""
        return self.kind == "seed" or (
            self.kind in ("kohya", "diffusers") and self.method == "LoRA"
        )

    def __str__(self) -> str:
        words = {
            "folder": "adapter folder",
            "seed": "NoRA seed file",
            "kohya": f"{self.method} in Kohya's keys (ComfyUI, A1111)",
            "diffusers": f"{self.method} in diffusers' keys",
            "peft": f"{self.method} in PEFT's keys, of one part of a model",
            "lycoris": f"{self.method} of LyCORIS",
            "other-lora": f"{self.method} for a model of another kind than SDXL",
            "embedding": "textual inversion (words, not weights)",
            "model": "model's own weights, not an adapter",
        }.get(self.kind, "safetensors file of no known kind of adapter")
        return f"{words}, for {self.base}" if self.base and self.kind != "other-lora" else words


def identify(header: Header) -> Identity:
    """Identify a file by its tensors' names, shapes and metadata."""
    names = list(header.shapes)
    if SEED_KEY in header.metadata:
        return Identity("seed", "NoRA")
    if names and all(name.startswith(PEFT_PREFIX) for name in names):
        method = next((m for mark, m in _PEFT.items() if any(mark in n for n in names)), "adapter")
        return Identity("peft", method)
    if names and all(name in ("clip_l", "clip_g", "emb_params") for name in names):
        return Identity("embedding", "")
    base = _base_of(header)
    for mark, method in _LYCORIS.items():
        if any(mark in name and "lora_" not in name.rpartition(".")[2] for name in names):
            return Identity("lycoris", method, base)
    if any(name.endswith((".diff", ".diff_b")) for name in names):
        return Identity("lycoris", "full difference", base)
    if any(_LORA_ENDING.search(name) for name in names):
        dora = any("dora_scale" in name or "magnitude_vector" in name for name in names)
        method = "DoRA" if dora else "LoRA"
        if any(name.startswith(_OTHER_MODELS) for name in names):
            return Identity("other-lora", method)
        if all(name.startswith(("lora_unet_", "lora_te")) for name in names):
            return Identity("kohya", method, base)
        if all(name.startswith(("unet.", "text_encoder.", "text_encoder_2.")) for name in names):
            return Identity("diffusers", method, base)
        return Identity("other-lora", method)
    if any(name.startswith(_MODEL_STARTS) or name.startswith("down_blocks.") for name in names):
        return Identity("model", "")
    return Identity("unknown", "")


def _base_of(header: Header) -> str:
    """Return the base model's family, by the width of the text that its cross attention reads."""
    for name, shape in header.shapes.items():
        if re.search(r"attn2[._]to_k[._].*(lora_down|lora_A|lora\.down|w1_b)", name) and shape:
            width = shape[-1]
            return _WIDTHS.get(width, f"a base with text of width {width}")
    return ""
