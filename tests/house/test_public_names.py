"""What `__all__` promises is there: every module's names, and the package's own for its users."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.modules import PACKAGE, TOP, modules

import nora_studio


def dotted(file: Path) -> str:
    """A module's name as `import` knows it."""
    names = file.relative_to(TOP).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def has_all(file: Path) -> bool:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for node in tree.body
    )


PROMISING = [dotted(file) for file in modules() if has_all(file)]


def test_there_are_modules_with_public_names():
    assert {"nora_studio", "nora_studio.nora", "nora_studio.adapters.tuners"} <= set(PROMISING)


@pytest.mark.parametrize("name", PROMISING)
def test_all_names_only_what_exists_and_each_once(name):
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    for public in module.__all__:
        assert getattr(module, public) is not None, public


@pytest.mark.slow
def test_the_packages_public_names_are_imported_from_it_as_the_readme_does():
    """And no others: what its lazy `__getattr__` gives is listed, and what is listed is given."""
    assert set(nora_studio.__all__) == {"NoraConfig", "NoraLinear", "NoraModel", "__version__"}
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    lazy = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    )
    given = {
        node.value
        for node in ast.walk(lazy)
        if isinstance(node, ast.Constant) and str(node.value).isidentifier()
    }
    assert given == set(nora_studio.__all__) - {"__version__"}
    program = "from nora_studio import *; print(NoraConfig.__module__, __version__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["nora_studio.nora.config", nora_studio.__version__], done.stderr


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'LoraConfig'"):
        _ = nora_studio.LoraConfig
