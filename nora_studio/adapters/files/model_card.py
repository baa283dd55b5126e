"""The page of an adapter on the Hub: a README.md with the header that the Hub reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData

from nora_studio.adapters.files.adapter_file import embeddings_path
from nora_studio.adapters.files.card import AdapterCard, is_hub_name, without_local_path
from nora_studio.adapters.files.embeddings import diffusers_lines
from nora_studio.photos.prompts import replace_token

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name that `load_lora_weights` looks for in a repository."""


@dataclass(frozen=True)
class Sample:
    """An image for the page."""

    prompt: str
    """The prompt it was generated with, trigger included."""
    name: str
    """Its file in the repository, such as "images/sample-1.png"."""


def model_page(
    card: AdapterCard,
    title: str,
    repository: str,
    files: Sequence[str],
    samples: Sequence[Sample],
) -> str:
    """Return the text of the page.

    Args:
        card: The adapter's.
        title: Heading.
        repository: "owner/name".
        files: Names of the adapter files in the repository.
        samples: Shown at the top.
    """
    base = card.model if is_hub_name(card.model) else None
    tags = ["text-to-image", "diffusers", "lora", "stable-diffusion-xl", "template:sd-lora"]
    header = ModelCardData(
        base_model=base,
        license=card.licence or None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[*tags, *([card.method] if card.method != "lora" else [])],
        instance_prompt=replace_token(card.prompt, card.trigger) or None,
        widget=[{"text": s.prompt, "output": {"url": s.name}} for s in samples] or None,
    )
    text = [f"# {title}", "<Gallery />"] if samples else [f"# {title}"]
    text.append(_summary(card))
    if card.trigger:
        text.append(f"Write `{card.trigger}` where the subject goes.")
    if DIFFUSERS_FILE in files:
        text += ["## Use", _usage(card, repository)]
    text += ["## Files", "\n".join(f"- `{file}`: {_purpose(file)}" for file in files)]
    text += ["## Training", _training(card)]
    return f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(text) + "\n"


def _summary(card: AdapterCard) -> str:
    methods = {"nora": "Nested Low-Rank Adaptation (NoRA, arXiv:2408.10280)", "lora": "LoRA"}
    method = methods.get(card.method, card.method)
    return f"A {method} adapter of Stable Diffusion XL, made with NoRA Studio {card.version}."


def _usage(card: AdapterCard, repository: str) -> str:
    base = card.model if is_hub_name(card.model) else "the-base-it-was-trained-on"
    prompt = replace_token(card.prompt, card.trigger) or "your prompt"
    lora, tokens = repr(repository), ""
    if card.tokens:
        # The repository has two files of weights, so each is named.
        lora += f", weight_name={DIFFUSERS_FILE!r}"
        name = embeddings_path(Path(DIFFUSERS_FILE)).name
        lines = diffusers_lines(f"hf_hub_download({repository!r}, {name!r})", card.tokens)
        tokens = "\n".join(["", "from huggingface_hub import hf_hub_download", *lines, ""])
    return (
        "```python\nimport torch\nfrom diffusers import StableDiffusionXLPipeline\n\n"
        f"pipe = StableDiffusionXLPipeline.from_pretrained({base!r}, torch_dtype=torch.float16)\n"
        f'pipe.to("cuda").load_lora_weights({lora})\n'
        f"{tokens}"
        f"pipe({prompt!r}).images[0]\n```"
    )


def _purpose(file: str) -> str:
    if file == DIFFUSERS_FILE:
        return "LoRA for diffusers"
    if file.endswith(embeddings_path(Path(".safetensors")).name):
        return "the new tokens that it needs; in ComfyUI and A1111, an embedding of the file's name"
    return "LoRA for ComfyUI, A1111, Forge and Kohya's scripts"


def _training(card: AdapterCard) -> str:
    rows = {
        "Base model": without_local_path(card).model,
        "Method": card.method,
        "Prompt": card.prompt,
        "Steps": f"{card.steps:,}",
        "Resolution": f"{card.resolution} px",
        "Seed": str(card.seed),
        "Trained parameters": f"{card.parameters:,}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items() if v)])
