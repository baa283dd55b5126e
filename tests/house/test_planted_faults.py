"""Every formula has a fault that a test finds: planted in a copy of the package, one at a time."""

import os
import shutil
import tomllib
from pathlib import Path

import pytest
from support.fault_server import FaultServer
from support.modules import PACKAGE
from support.places import TOP

FAULTS = tomllib.loads(
    (TOP / "tests" / "support" / "planted_faults.toml").read_text(encoding="utf-8")
)["fault"]


@pytest.fixture(scope="module")
def server():
    with FaultServer(TOP) as started:
        yield started


def test_each_fault_is_of_one_line_of_today():
    """Never left out as slow: a formula that moves takes its fault along."""
    claims = [fault["claim"] for fault in FAULTS]
    assert len(claims) == len(set(claims))
    for fault in FAULTS:
        text = (PACKAGE / fault["file"]).read_text(encoding="utf-8")
        assert text.count(fault["old"]) == 1, f"{fault['file']}: {fault['old']}"
        assert fault["new"] != fault["old"]
        file, _, test = fault["test"].partition("::")
        name = test.partition("[")[0]
        text = (TOP / "tests" / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text, fault["test"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="each fault has a fork of its own")
@pytest.mark.parametrize("fault", FAULTS, ids=[fault["claim"] for fault in FAULTS])
def test_a_planted_fault_fails_its_test(fault, server, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "nora_studio")
    (copy / "assets").symlink_to(TOP / "assets")
    planted = copy / "nora_studio" / fault["file"]
    text = planted.read_text(encoding="utf-8")
    planted.write_text(text.replace(fault["old"], fault["new"]), encoding="utf-8")
    # Python takes compiled code by size and second, which a fault of one letter may leave as is.
    for compiled in (planted.parent / "__pycache__").glob(f"{planted.stem}.*"):
        compiled.unlink()
    result = server.run(copy, fault["test"])
    said = (copy / "output.txt").read_text(encoding="utf-8")
    assert Path(result["package"]).is_relative_to(copy), result["package"]
    assert result["failed"], f"no test fails: {result['passed']}\n{said}"
    for _, phase, kind in result["failed"]:
        assert (phase, kind) == ("call", "assertion"), said
