"""A command says nothing of what libraries find on import, and they may still say all else."""

import logging
import subprocess
import sys

from nora_studio.quiet import hush_imports

ALL_OF_THEM = "import nora_studio, peft; from diffusers import StableDiffusionXLPipeline"


def test_importing_everything_says_nothing():
    done = subprocess.run([sys.executable, "-c", ALL_OF_THEM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_library_is_silenced_in_nothing_else(caplog):
    hush_imports()
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
    logger.warning("something else is wrong")
    assert caplog.messages == ["something else is wrong"]
