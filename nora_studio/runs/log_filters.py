"""Filters for log lines of libraries that a user can do nothing about, or that we print better."""

import logging

_FILTERED = {
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    # Logged twice per column for a long prompt; `prompt_warnings` reports it once, with the words.
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl": (
        "The following part of your input was truncated"
    ),
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than",
}
"""Part of the lines to drop, by logger; torchao and bitsandbytes log theirs with every command."""


def filter_library_logs() -> None:
    """Drop these lines, and no other line of the same loggers."""
    for name, words in _FILTERED.items():
        logging.getLogger(name).addFilter(lambda record, words=words: words not in str(record.msg))
