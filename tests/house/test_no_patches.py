"""Tests take the project's own code as it is: none of its names is patched."""

import ast
from pathlib import Path

from support.places import TOP

PATCHERS = ("setattr", "delattr")
EXCEPTIONS = {
    # No quantiser that is installed here has weights which cannot be read back.
    ("nora/test_conformity_quantized.py", "base_layers.resolve_quantization_backend"),
}


def names_of_ours(tree: ast.AST) -> set[str]:
    """The names that a file's imports give to what is the project's."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nora_studio"):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.startswith("nora_studio")]
            found |= {alias.asname or "nora_studio" for alias in ours}
    return found


def patches(file: Path) -> set[str]:
    """What of the project's own a test file sets by monkeypatch, as "module.name"."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    ours, found = names_of_ours(tree), set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in PATCHERS or ast.unparse(node.func.value) != "monkeypatch":
            continue
        target, *rest = node.args
        if isinstance(target, ast.Constant):
            if str(target.value).startswith("nora_studio"):
                found.add(str(target.value))
        elif {name.id for name in ast.walk(target) if isinstance(name, ast.Name)} & ours:
            name = rest[0].value if rest and isinstance(rest[0], ast.Constant) else "?"
            found.add(f"{ast.unparse(target)}.{name}")
    return found


def test_no_test_patches_what_is_ours():
    tests = TOP / "tests"
    found = {
        (file.relative_to(tests).as_posix(), name)
        for file in tests.rglob("*.py")
        for name in patches(file)
    }
    assert found == EXCEPTIONS


def test_nothing_stands_in_for_our_code():
    for file in (TOP / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            assert not any(name.startswith(("unittest.mock", "mock")) for name in modules), file


def test_a_patch_would_be_seen(tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text(
        "from nora_studio.runs import runs\nfrom nora_studio.runs.runs import Run\nimport sys\n"
        "def test(monkeypatch, studio):\n"
        "    monkeypatch.setattr(Run, 'log', print)\n"
        "    monkeypatch.setattr(runs.Run, act, print)\n"
        "    monkeypatch.setattr('nora_studio.runs.runs.LOG', 'x')\n"
        "    monkeypatch.setattr(sys, 'argv', [])\n"
    )
    assert patches(file) == {"Run.log", "runs.Run.?", "nora_studio.runs.runs.LOG"}
