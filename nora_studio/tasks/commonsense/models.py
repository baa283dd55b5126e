"""Find and load frozen causal language models, with tokenizers that pad on the left."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from nora_studio.adapters.base_digests import keep_base_folder
from nora_studio.errors import StudioError, first_line
from nora_studio.mini.assets import EMBEDDED, embedded, find_model
from nora_studio.runs.weight_files import check_hub_weights, check_weights
from nora_studio.sdxl.quantization import check_quantizer, quantize

FOLDER = "mini-llama"
_LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, SafetensorError)


def source_of(model: str) -> str:
    """Return the directory or Hub name that a model's name stands for.

    Raises:
        StudioError: the embedded model is missing, or a directory has no model.
    """
    if model == EMBEDDED and not embedded(FOLDER).is_dir():
        raise StudioError(
            f"--model embedded: {embedded(FOLDER)} is missing. Create it with `python "
            "training/pretrain_mini_llama.py`, or choose another model."
        )
    folder = find_model(model, FOLDER)
    if folder is None:
        return model
    if not (folder / "config.json").is_file():
        raise StudioError(f"--model: {folder} has no config.json of a transformers model.")
    return str(folder)


def load_tokenizer(model: str) -> Any:
    """Load a model's tokenizer, padding on the left, with a padding token.

    If the model has no padding token, it is id 0, as in LLM-Adapters; attention masks it.

    Raises:
        StudioError: the tokenizer cannot be loaded.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source_of(model), trust_remote_code=False)
    except _LOAD_ERRORS as error:
        raise StudioError(
            f"--model: {model!r} has no tokenizer to load: {first_line(error).rstrip('.')}. "
            "Check the path or Hub name."
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.padding_side = "left"
    return tokenizer


def load_decoder(model: str, dtype: torch.dtype, device: torch.device, bits: int = 16) -> nn.Module:
    """Load a causal language model, frozen and in evaluation mode.

    Args:
        dtype: Dtype of the weights that are not quantised.
        bits: 8 or 4 to quantise the blocks' linear layers, one at a time.

    Raises:
        StudioError: the model cannot be loaded.
    """
    check_quantizer(bits)
    source = source_of(model)
    check_weights("--model", model, Path(source))
    logging.disable_progress_bar()
    try:
        # Only safetensors: other weights would be unpickled.
        decoder: Any = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except _LOAD_ERRORS as error:
        check_hub_weights("--model", model)
        raise StudioError(
            f"--model: {model!r} could not be loaded as a causal language model: "
            f"{first_line(error).rstrip('.')}. Check the path or Hub name."
        ) from error
    finally:
        logging.enable_progress_bar()
    decoder.requires_grad_(False).eval()
    keep_base_folder(decoder, source_of(model))
    if bits != 16:
        quantize("decoder", decoder, bits, device)
    return decoder.to(device)
