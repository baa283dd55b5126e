"""A training step is read in six files, and the README names them and where to read."""

import ast
import contextlib
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from types import FrameType

import pytest
from support.loop import built
from support.modules import PACKAGE
from support.places import TOP
from support.trainer import run_trainer, tiny_arguments

from nora_studio.trainer.step import Stepper

STEP = {
    "trainer/step.py",
    "tasks/dreambooth/batches.py",
    "tasks/dreambooth/step.py",
    "sdxl/diffusion.py",
    "sdxl/losses.py",
    "nora/layer.py",
}
ON_TOP = {
    "nora/products.py",
    "nora/product_linear.py",
    "nora/stacked.py",
    "adapters/methods/step_rules.py",
    "adapters/methods/decay.py",
}
"""The method's own: NoRA's products of all layers, its rules and its weight decay."""


@contextlib.contextmanager
def calls(wanted: Callable[[FrameType], bool] = lambda frame: True):
    """File of the package -> functions of it that are called in the block."""
    crossed: dict[str, set[str]] = defaultdict(set)

    def note(frame: FrameType, event: str, argument: object) -> None:
        place = frame.f_code.co_filename
        if event == "call" and place.startswith(str(PACKAGE)) and wanted(frame):
            crossed[place.removeprefix(f"{PACKAGE}/")].add(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield crossed
    finally:
        sys.setprofile(before)


def takes_options(frame: FrameType) -> bool:
    """Whether a function is called with an object of options."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(type(frame.f_locals.get(name)).__name__.endswith("Options") for name in names)


@pytest.mark.slow
def test_options_pass_through_few_files_on_their_way_into_a_step(tiny_base, photo_folder, tmp_path):
    with calls(takes_options) as crossed:
        done = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "nora"))
    assert done.status == 0, done.err
    # A group's own file refuses what it cannot have, and hands nothing on.
    passed = {file for file in crossed if not file.startswith("options/groups/")}
    assert len(passed) <= 12, sorted(passed)
    assert {file for file in passed if not file.startswith("options/")} == {
        "runs/run_folders.py",
        "tasks/dreambooth/settings.py",
        "tasks/dreambooth/task.py",
        "trainer/lifecycle.py",
        "trainer/settings.py",
        "trainer/task.py",
    }


def test_a_step_of_nora_crosses_six_files_and_its_methods_own(tiny_base, photo_folder, tmp_path):
    _, batches, (state,) = built(tiny_base, photo_folder, tmp_path, method="nora")
    stepper = Stepper(state, accumulate=1, max_gradient_norm=1.0)
    with calls() as crossed:
        stepper.advance(batches.next(), 1)
    assert set(crossed) - ON_TOP == STEP
    assert {"forward"} < crossed["tasks/dreambooth/step.py"] | crossed["nora/layer.py"]


def test_the_readme_names_the_files_of_a_step_and_functions_that_are_there():
    text = (TOP / "README.md").read_text(encoding="utf-8")
    named = re.findall(
        r"^\d\. `nora_studio/(\S+?\.py)`: ((?:`[\w.]+`(?:, )?)+)", text, re.MULTILINE
    )
    assert {file for file, _ in named} == STEP
    for file, functions in named:
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
        there = {node.name for node in tree.body if hasattr(node, "name")}
        for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            names = {getattr(node, "name", None) for node in owner.body}
            there |= {f"{owner.name}.{name}" for name in names - {None}}
        assert set(re.findall(r"`([\w.]+)`", functions)) <= there, file
