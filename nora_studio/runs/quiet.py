"""Leave out what libraries say that no user of ours can change, or that we say ourselves."""

import logging

_SAID = {
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    # Of a long prompt, twice for each column: `prompt_warnings` says it once, with the words.
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl": (
        "The following part of your input was truncated"
    ),
    "transformers.tokenization_utils_base": "Token indices sequence length is longer than",
}
"""By logger: torchao and bitsandbytes, where installed, said these lines before every command."""


def hush_imports() -> None:
    """Drop these lines, and nothing else that the same loggers say."""
    for name, words in _SAID.items():
        logging.getLogger(name).addFilter(lambda record, words=words: words not in str(record.msg))
