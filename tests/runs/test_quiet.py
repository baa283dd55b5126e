"""What libraries say on import is left out, and nothing else."""

import logging

from nora_studio.runs.quiet import hush_imports


def test_a_library_is_silenced_in_nothing_else(caplog):
    hush_imports()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
    logger.warning("something else is wrong")
    assert caplog.messages == ["something else is wrong"]


def test_libraries_do_not_repeat_what_is_said_of_long_prompts(caplog, tiny_pipe):
    tiny_pipe.encode_prompt("mug " * 90, do_classifier_free_guidance=False)
    assert caplog.messages == []
