"""Base models: loading them frozen, their parts, and the layers that can be adapted."""

import contextlib
import copy
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn
from transformers import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from nora_studio.adapters.base_digests import keep_base_folder
from nora_studio.errors import StudioError, first_line
from nora_studio.mini.assets import EMBEDDED, find_model
from nora_studio.runs.weight_files import check_hub_weights, check_weights
from nora_studio.sdxl.quantization import shared_state

PARTS = ("unet", "text_encoder", "text_encoder_2")

_ATTENTION = {
    "unet": ["to_q", "to_k", "to_v", "to_out.0"],
    "text_encoder": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "text_encoder_2": ["q_proj", "k_proj", "v_proj", "out_proj"],
}
_FEEDFORWARD = {
    "unet": ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"],
    "text_encoder": ["fc1", "fc2"],
    "text_encoder_2": ["fc1", "fc2"],
}
TARGET_CHOICES = ("attention", "attention+feedforward")


def load_sdxl(
    model: str = EMBEDDED,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> StableDiffusionXLPipeline:
    """Load an SDXL pipeline, frozen and in evaluation mode.

    Args:
        model: "embedded", a diffusers directory, or a Hub name.
        dtype: Dtype of every weight.

    Raises:
        StudioError: the model could not be loaded, or is another kind of pipeline.
    """
    name = _source(model)
    try:
        with _without_progress_bars() if model == EMBEDDED else contextlib.nullcontext():
            pipe = StableDiffusionXLPipeline.from_pretrained(
                name, dtype=dtype, use_safetensors=True, add_watermarker=False
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        check_hub_weights("--model", model, "safetensors in every part")
        raise _not_loaded(model, error) from error
    pipe.set_progress_bar_config(disable=True)
    for part, module in {**parts_of(pipe), "vae": pipe.vae}.items():
        module.requires_grad_(False).eval()
        keep_base_folder(module, name, part)
    return pipe.to(device)


def _not_loaded(model: str, error: Exception) -> StudioError:
    return StudioError(
        f"--model: {model!r} could not be loaded as an SDXL pipeline: {first_line(error)}. "
        "Expected diffusers' folders with safetensors weights (unet/, vae/, text_encoder/, ...)."
    )


def configured_resolution(model: str) -> int:
    """Return the side in pixels that a base's UNet was trained for, without loading the base.

    Args:
        model: "embedded", a diffusers directory, or a Hub name, of which two small files are read.

    Raises:
        StudioError: the model cannot be loaded, or it is another kind of pipeline.
    """
    name = _source(model)
    try:
        unet, vae = (_configuration(name, part) for part in ("unet", "vae"))
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_loaded(model, error) from error


def _configuration(name: str, part: str) -> dict[str, Any]:
    """Read a part's config.json, from a directory or the Hub."""
    file = Path(name) / part / "config.json"
    if not Path(name).is_dir():
        file = Path(hf_hub_download(name, f"{part}/config.json"))
    return json.loads(file.read_text(encoding="utf-8"))


def _source(model: str) -> str:
    """Return the directory or Hub name of a model."""
    folder = find_model(model, "mini-sdxl")
    if folder is None:
        return model
    _check_directory(folder)
    return str(folder)


class Tokenizers(NamedTuple):
    """Both tokenizers of an SDXL pipeline, by their names in the pipeline."""

    tokenizer: Any
    tokenizer_2: Any


def load_tokenizers(model: str = EMBEDDED) -> Tokenizers:
    """Load only a model's tokenizers.

    Raises:
        StudioError: for the same reasons as `load_sdxl`.
    """
    name = _source(model)
    try:
        return Tokenizers(
            *(CLIPTokenizer.from_pretrained(name, subfolder=part) for part in Tokenizers._fields)
        )
    except (OSError, ValueError, KeyError) as error:
        raise StudioError(
            f"--model: the tokenizers of {model!r} could not be loaded: "
            f"{first_line(error).rstrip('.')}. Check the path or Hub name."
        ) from error


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Hide progress bars in a block, for a model that loads in a second."""
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in (diffusers_logging, transformers_logging):
            library.enable_progress_bar()


def _check_directory(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise StudioError(
            f"--model: expected a diffusers SDXL pipeline; {folder} has no model_index.json. Name "
            "the folder that contains unet/, vae/, text_encoder/ and text_encoder_2/."
        )
    try:
        kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise StudioError(f"--model: {index} is not valid JSON: {error}. Restore it.") from error
    if kind != "StableDiffusionXLPipeline":
        raise StudioError(
            f"--model: expected a StableDiffusionXLPipeline; {index} says {kind}. Name a model of "
            "the SDXL family."
        )
    for part in (*PARTS, "vae"):
        name = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
        check_weights("--model", str(folder), folder / part, f"{part}/{name}.safetensors")


def parts_of(pipe: StableDiffusionXLPipeline) -> dict[str, nn.Module]:
    """Return the three modules of SDXL that can be adapted, by part name."""
    return {part: getattr(pipe, part) for part in PARTS}


def targets_for(part: str, which: str = "attention") -> list[str]:
    """Return the name suffixes of a part's linear layers: attention, or feed-forward as well."""
    if which not in TARGET_CHOICES:
        raise StudioError(f"targets: expected one of {', '.join(TARGET_CHOICES)}; got {which!r}.")
    return _ATTENTION[part] + (_FEEDFORWARD[part] if which == "attention+feedforward" else [])


def used_targets(part: str, module: nn.Module, which: str = "attention") -> list[str]:
    """Return `targets_for` without the layers whose output SDXL does not use.

    The first text encoder is used up to its penultimate layer, so an adapter on its last layer
    would never get a gradient: its targets are named one by one, without the last layer's.
    """
    suffixes = targets_for(part, which)
    if part != "text_encoder":
        return suffixes
    layers: int = module.config.num_hidden_layers  # pyright: ignore
    last = f"layers.{layers - 1}."
    return [
        name
        for name, _ in module.named_modules()
        if name.endswith(tuple(f".{suffix}" for suffix in suffixes)) and last not in name
    ]


def share_weights(module: nn.Module) -> nn.Module:
    """Copy a module tree that shares its tensors, so that one base can carry another adapter."""
    tensors = (*module.parameters(), *module.buffers(), *shared_state(module))
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def with_parts(
    pipe: StableDiffusionXLPipeline, parts: dict[str, nn.Module]
) -> StableDiffusionXLPipeline:
    """Return a pipeline of the same components with some parts replaced."""
    replaced = StableDiffusionXLPipeline(
        **{**pipe.components, **parts},
        force_zeros_for_empty_prompt=pipe.config["force_zeros_for_empty_prompt"],
        add_watermarker=False,
    )
    replaced.set_progress_bar_config(disable=True)
    return replaced


def to_device(
    pipe: StableDiffusionXLPipeline, parts: Collection[str], device: torch.device
) -> None:
    """Move the parts that every step needs to a device; the others stay where they are."""
    for part, module in parts_of(pipe).items():
        if part in parts:
            module.to(device)


@contextlib.contextmanager
def all_on_device(pipe: StableDiffusionXLPipeline) -> Iterator[None]:
    """Move all of a pipeline to its device for a block, to generate images."""
    modules = [module for module in pipe.components.values() if isinstance(module, nn.Module)]
    device = pipe.device
    homes = [(module, next(module.parameters()).device) for module in modules]
    try:
        for module, home in homes:
            if home != device:
                module.to(device)
        yield
    finally:
        for module, home in homes:
            if home != device:
                module.to(home)


def native_resolution(pipe: StableDiffusionXLPipeline) -> int:
    """Return the side in pixels that the UNet was trained for."""
    return int(pipe.unet.config["sample_size"]) * pipe.vae_scale_factor


VOWELS = frozenset("aeiouy")
# The name of a weapon (as discussed in diffusers): never chosen, but accepted.
AVOIDED_TRIGGERS = frozenset({"sks"})


def check_trigger(pipe: StableDiffusionXLPipeline | Tokenizers, word: str) -> str:
    """Check that a word for "[V]" is one token in both tokenizers, and return it.

    Raises:
        StudioError: a tokenizer splits the word.
    """
    for name in Tokenizers._fields:
        pieces = getattr(pipe, name).tokenize(word)
        if len(pieces) != 1:
            raise StudioError(
                f"--trigger: expected a word that is one token; {name} reads {word!r} as "
                f"{len(pieces)} ({' '.join(pieces)}). Leave --trigger out to have one chosen."
            )
    return word


def choose_trigger(pipe: StableDiffusionXLPipeline | Tokenizers) -> str:
    """Choose the rare word that stands for "[V]": one token in both tokenizers.

    It is the vocabulary's rarest word (byte-pair merges are learned from frequent to rare, so the
    largest id) of three or four consonants, as in DreamBooth (arXiv 2208.12242), 3.1.

    Raises:
        StudioError: no word qualifies.
    """
    vocabularies = [getattr(pipe, name).get_vocab() for name in Tokenizers._fields]
    words = [
        (identifier, token.removesuffix("</w>"))
        for token, identifier in vocabularies[0].items()
        if token.endswith("</w>") and token in vocabularies[1]
    ]
    rare = [
        (identifier, word)
        for identifier, word in words
        if 3 <= len(word) <= 4
        and word.isascii()
        and word.isalpha()
        and not VOWELS & set(word)
        and word not in AVOIDED_TRIGGERS
    ]
    if not rare:
        raise StudioError(
            "--trigger: no rare word of this model is one token in both tokenizers. Name a word "
            "with --trigger."
        )
    return max(rare)[1]
