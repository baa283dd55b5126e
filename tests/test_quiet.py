"""What libraries say on import is left out, and nothing else."""

import logging

from nora_studio.quiet import hush_imports


def test_a_library_is_silenced_in_nothing_else(caplog):
    hush_imports()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
    logger.warning("something else is wrong")
    assert caplog.messages == ["something else is wrong"]
