"""A training step is read in six files, and the README names them and where to read."""

import ast
import re
import sys
from collections import defaultdict

from support.loop import built
from support.modules import PACKAGE
from support.places import TOP

from nora_studio.trainer.loop import Plan, advance

STEP = {
    "trainer/loop.py",
    "tasks/dreambooth/batches.py",
    "tasks/dreambooth/step.py",
    "sdxl/diffusion.py",
    "sdxl/losses.py",
    "nora/layer.py",
}
ON_TOP = {"nora/fused_update.py", "adapters/methods/steps.py", "adapters/methods/decay.py"}
"""The method's own: NoRA's cheaper products, its rules and its weight decay."""


def test_a_step_of_nora_crosses_six_files_and_its_methods_own(tiny_base, photo_folder, tmp_path):
    _, draws, (trainee,) = built(tiny_base, photo_folder, tmp_path, method="nora")
    plan = Plan(1, 1, 1, 1, 0, 0, max_gradient_norm=1.0)
    crossed = defaultdict(set)

    def note(frame, event, argument):
        place = frame.f_code.co_filename
        if event == "call" and place.startswith(str(PACKAGE)):
            crossed[place.removeprefix(f"{PACKAGE}/")].add(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        advance(trainee, draws.next(), 1, plan)
    finally:
        sys.setprofile(before)
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
            there |= {f"{owner.name}.{node.name}" for node in owner.body if hasattr(node, "name")}
        assert set(re.findall(r"`([\w.]+)`", functions)) <= there, file
