"""Leave out what libraries say on import of matters that no user of ours can change."""

import logging

_SAID = {
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
}
"""By logger: torchao and bitsandbytes, where installed, said these lines before every command."""


def hush_imports() -> None:
    """Drop these lines, and nothing else that the same loggers say."""
    for name, words in _SAID.items():
        logging.getLogger(name).addFilter(lambda record, words=words: words not in str(record.msg))
