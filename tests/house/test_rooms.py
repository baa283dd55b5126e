"""The walls between rooms: who may import whom, how long a file may be, what it may not name."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest
from support.modules import ENTRY_FOLDERS, PACKAGE, TOP, modules, scripts

LOOSE = {"__init__.py", "errors.py", "py.typed"}
"""The only files that stand outside of rooms; anybody may import `errors`."""
LEVELS = [
    {"runs"},
    {"photos", "mini", "nora"},
    {"adapters"},
    {"options"},
    {"sdxl", "trainer"},
    {"scoring"},
    {"tasks.dreambooth", "tasks.fewshot", "tasks.commonsense"},
    {"app"},
    {"cli"},
]
"""Imports go only to lower levels; within a room they are free."""
ALONE = {
    "sdxl.losses": set(),
    "options.groups": set(),
    "photos": {"runs"},
    "nora": {"runs"},
    "mini.world": set(),
    "mini.everyday": set(),
}
"""What may be imported, beside `errors`, by what stands on plain tensors and files alone."""


def dotted(file: Path) -> str:
    """A file's name as `import` knows it."""
    names = file.relative_to(TOP).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def room_of(name: str) -> str:
    """The room of "nora_studio.nora.layer" is "nora"; each task is a room of its own."""
    _, room, *inner = [*name.split("."), ""]
    return f"tasks.{inner[0]}" if room == "tasks" and inner[0] else room


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, by its full name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which room they reach"
            module = node.module or ""
            for alias in node.names:
                inner = TOP / module.replace(".", "/") / alias.name
                is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return names


def rooms_used(file: Path) -> set[str]:
    """The rooms that a file imports from, without its own and without `errors`."""
    found = {room_of(name) for name in imported(file) if name.split(".")[0] == "nora_studio"}
    return found - {room_of(dotted(file)), "errors", ""}


def folders_of_code(folder: Path) -> set[str]:
    """Names of the folders in it with Python files; not those that a removed one left behind."""
    return {path.name for path in folder.iterdir() if any(path.glob("**/*.py"))}


def test_every_room_stands_in_the_table_once_and_few_files_outside_of_rooms():
    table = [room for level in LEVELS for room in level]
    assert len(table) == len(set(table))
    folders = folders_of_code(PACKAGE)
    assert folders == {room.partition(".")[0] for room in table}
    assert {path.name for path in PACKAGE.iterdir() if path.is_file()} == LOOSE
    assert {f"tasks.{name}" for name in folders_of_code(PACKAGE / "tasks")} <= set(table)


def test_the_tests_mirror_the_rooms():
    folders = folders_of_code(TOP / "tests") - {"support", "house"}
    assert folders == {room.partition(".")[0] for level in LEVELS for room in level}
    for file in (TOP / "tests").rglob("test_*.py"):
        others = {name.rpartition(".")[2] for name in imported(file)}
        assert not {name for name in others if name.startswith("test_")}, dotted(file)


@pytest.mark.parametrize("file", modules(), ids=dotted)
def test_imports_go_only_to_lower_levels(file):
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    own = room_of(dotted(file))
    for room in rooms_used(file) if own else ():  # The package's own __init__ is above them all.
        assert level[room] < level[own], f"{dotted(file)} imports {room}, which is not below it"


def test_no_file_imports_itself_through_others():
    """Imports inside functions count: they hide a circle, but a reader still walks in it."""
    uses = {dotted(file): imported(file) for file in modules()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        for used in sorted(uses[name] & uses.keys()):
            visit(used, (*path, name))
        done.add(name)

    for name in uses:
        visit(name, ())


@pytest.mark.parametrize("place", ALONE)
def test_formulas_and_files_import_nothing_more_of_ours(place):
    found = [file for file in modules() if f"{dotted(file)}.".startswith(f"nora_studio.{place}.")]
    assert found, f"no such place: {place}"
    for file in found:
        assert rooms_used(file) <= ALONE[place], dotted(file)


def test_the_app_never_imports_training_code():
    """It starts the trainer as a person would, and reads its run folder."""
    app = [file for file in scripts() if file.parent == TOP]
    rooms = [file for file in modules() if room_of(dotted(file)) == "app"]
    for file in [*rooms, *app]:
        used = rooms_used(file)
        assert not {room for room in used if room.partition(".")[0] in ("trainer", "tasks")}, file


def test_nobody_imports_an_entry_point():
    entries = {*ENTRY_FOLDERS, "app"}
    for file in [*modules(), *scripts()]:
        assert not {name.split(".")[0] for name in imported(file)} & entries, dotted(file)


def test_modules_and_scripts_keep_their_length():
    limits = dict.fromkeys(modules(), 300) | dict.fromkeys(scripts(), 200)
    limits |= dict.fromkeys((TOP / "tests").rglob("*.py"), 300)
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in limits}
    too_long = {dotted(file): n for file, n in lengths.items() if n > limits[file]}
    assert not too_long


@pytest.mark.parametrize("file", modules(), ids=dotted)
def test_functions_keep_their_length(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{dotted(file)}.{node.name} has {length} lines"


@pytest.mark.parametrize("name", [dotted(file) for file in modules()])
def test_every_module_imports(name):
    importlib.import_module(name)


def test_no_file_names_a_path_of_some_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"""(?<![\w.])/(work|home|root|tmp|Users|mnt|venv)/\w""")
    for name in listed.stdout.splitlines():
        file = TOP / name
        if file.suffix in (".py", ".md", ".toml", ".json", ".css", ".yml", ".html", ".txt"):
            found = pattern.search(file.read_text(encoding="utf-8")) if file.is_file() else None
            assert not found, f"{name}: {found}"
