"""Our methods are registered when PEFT is imported, and importing us does not import PEFT."""

import subprocess
import sys

import pytest

from nora_studio.runs.import_hooks import when_imported

LATE_PEFT = """
import sys
import nora_studio
import importlib
import nora_studio.options.config, nora_studio.adapters.methods.table
from nora_studio.cli.main import COMMANDS, RUNS, Command
for command in [*COMMANDS.values(), *RUNS.values()]:
    if isinstance(command, Command) and command.module.startswith("nora_studio.cli."):
        importlib.import_module(command.module)
heavy = {"torch", "peft", "transformers", "diffusers"} & set(sys.modules)
assert not heavy, f"imported without need: {heavy}"
from peft import PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.NORA] is nora_studio.NoraConfig
assert {"NORA", "DYLORA"} <= set(PeftType.__members__)
from diffusers import StableDiffusionXLPipeline
"""


@pytest.fixture
def late(tmp_path, monkeypatch):
    """A module that is not imported yet; it is removed after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)

    def write(body: str) -> str:
        (tmp_path / "some_late_module.py").write_text(body)
        return "some_late_module"

    yield write
    sys.meta_path[:] = finders
    sys.modules.pop("some_late_module", None)


def test_importing_peft_registers_our_methods_and_importing_us_does_not_import_peft():
    done = subprocess.run([sys.executable, "-c", LATE_PEFT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # What torchao and bitsandbytes say on import stands before no command.
    assert (done.stdout, done.stderr) == ("", "")


def test_an_import_hook_is_called_once_its_module_is_complete(late):
    name, seen = late("ready = True"), []
    when_imported(name, lambda: seen.append(sys.modules[name].ready))
    assert not seen
    __import__(name)
    __import__(name)
    assert seen == [True]


def test_an_import_hook_runs_at_once_if_the_module_is_imported_already(late):
    name, seen = late(""), []
    __import__(name)
    when_imported(name, lambda: seen.append(name))
    assert seen == [name]


def test_an_import_hook_survives_a_failed_import(late):
    name, seen = late("raise ImportError('not now')"), []
    when_imported(name, lambda: seen.append(name))
    with pytest.raises(ImportError, match="not now"):
        __import__(name)
    assert not seen
    late("longer_than_before = True")
    __import__("importlib").invalidate_caches()
    __import__(name)
    assert seen == [name]
