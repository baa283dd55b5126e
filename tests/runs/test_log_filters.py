"""Filters for log lines of libraries drop these lines and no others."""

import logging

from nora_studio.runs.log_filters import filter_library_logs


def test_other_lines_of_the_same_loggers_are_kept(caplog):
    filter_library_logs()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
    logger.warning("something else is wrong")
    assert caplog.messages == ["something else is wrong"]


def test_library_warnings_about_long_prompts_are_dropped(caplog, tiny_pipe):
    tiny_pipe.encode_prompt("mug " * 90, do_classifier_free_guidance=False)
    assert caplog.messages == []
