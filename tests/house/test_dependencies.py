"""Dependencies are bounded by what was tested, and the constraints lie within the bounds."""

from importlib import metadata

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.places import TOP

CONSTRAINTS = TOP / "assets" / "constraints.txt"
EXTRAS = ("", "quantized", "trackers", "optimizers", "dev")
"""Extras whose packages the constraints hold; `eval` is for whoever installs it."""


def bounds() -> dict[str, Requirement]:
    """What the package asks for, by name and extra."""
    found = {}
    for line in metadata.requires("nora-studio") or []:
        wanted = Requirement(line)
        for extra in EXTRAS:
            environment = {**default_environment(), "extra": extra}
            if wanted.marker is None or wanted.marker.evaluate(environment):
                found[canonicalize_name(wanted.name)] = wanted
    found.pop("nora-studio", None)
    return found


def constraints() -> dict[str, str]:
    """The tested releases by name."""
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("name", sorted(bounds()))
def test_what_is_installed_and_what_was_tested_lie_within_bounds_that_end(name):
    wanted = bounds()[name]
    operators = {one.operator for one in wanted.specifier}
    assert operators & {"<", "=="}, f"{wanted} admits what was never tested"
    assert wanted.specifier.contains(metadata.version(name)), f"{wanted}: another one is installed"
    assert wanted.specifier.contains(constraints()[name]), f"{wanted}: the constraint is outside"


def test_the_readme_installs_the_tested_releases():
    lines = (CONSTRAINTS.parent.parent / "README.md").read_text("utf-8").splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv")]
    assert len(commands) == 2
    assert all("pip install -c assets/constraints.txt -e" in line for line in commands)
