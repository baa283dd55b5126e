"""The walls between rooms: who may import whom, how long a file may be, what it may not name."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PACKAGE = TOP / "nora_studio"
ENTRY_FOLDERS = ("training", "evaluation")

# Imports go only to lower levels; within a package folder they are free.
LEVELS = [
    {
        "errors",
        "quiet",
        "liveness",
        "fingerprints",
        "losses",
        "registration",
        "stop",
        "orphans",
        "remedies",
        "curves",
        "averages",
        "schedules",
        "peak_memory",
        "strict_json",
    },
    {
        "weight_files",
        "atomic",
        "storage",
        "fidelity",
        "assets",
        "data",
        "t_distribution",
        "number_ranges",
        "paths",
        "run_files",
        "checksums",
    },
    {
        "tensor_files",
        "disk_cache",
        "fidelity_plot",
        "statistics",
        "command_line",
        "judges",
        "run_options",
        "recipes",
    },
    {
        "nora",
        "base_digests",
        "world",
        "everyday",
        "prompts",
        "scripts",
        "crew",
        "drawing_requests",
        "grid",
        "settings",
        "processes",
        "trackers",
        "new_tokens",
        "quantization",
        "attention",
        "dino",
        "clip_files",
        "fidelity_words",
        "tables",
    },
    {"tuners", "sweep_table"},
    {"", "methods", "recommended"},  # "": the package's own __init__, which registers the tuners
    {"config"},
    {"defaults", "sharding"},
    {"formats", "options_page", "part_settings"},
    {"cards"},
    {
        "denoising",
        "files",
        "models",
        "cache",
        "run_lock",
        "checkpoints",
        "options_file",
        "pretrain",
        "report",
    },
    {"runs", "launching", "shipped"},
    {"run_places", "resuming"},
    {
        "trainee",
        "assembly",
        "dreambooth",
        "draws",
        "generate",
        "scores",
        "shapes",
        "token_training",
        "attempt",
        "audit",
        "interruption",
        "base",
        "out_of_memory",
    },
    {"entrants", "readings"},
    {"adapted", "prompt_warnings"},
    {
        "fewshot",
        "trials",
        "history",
        "subject",
        "compare",
        "parameters",
        "held_out",
        "photo_set",
        "progress",
        "saving",
        "settling",
        "early_stop",
        "sample_scores",
        "wall",
    },
    {
        "activations",
        "commonsense",
        "drawing_server",
        "fidelity_judging",
        "loop",
        "personalise",
        "prior",
        "results",
        "samples",
    },
    {"preparation", "proof", "gallery", "course"},
    {"demo", "preflight"},
    {"studio", "commands", "fitting"},
    {"ui"},
    {"cli"},
]
# Beyond the levels: these stand on plain tensors and files alone.
ALONE = {
    "losses": set(),
    "settings": {"errors"},
    "data": {"errors"},
    "nora": {"errors", "registration", "disk_cache", "tensor_files", "weight_files"},
    "world": {"errors"},
    "everyday": {"errors"},
}
# The app starts the trainer as a person would, and reads its run folder.
TRAINING_CODE = {
    "loop", "dreambooth", "draws", "photo_set", "denoising", "prior", "held_out", "trainee",
    "preparation", "activations", "personalise", "assembly", "checkpoints", "losses", "cache",
    "progress", "saving", "subject", "samples", "proof", "processes", "sharding", "early_stop",
    "sample_scores", "gallery", "averages", "schedules", "settling", "token_training", "attempt",
    "base", "preflight", "fitting", "fewshot", "commonsense", "course",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def scripts() -> list[Path]:
    found = [file for folder in ENTRY_FOLDERS for file in (TOP / folder).rglob("*.py")]
    app = TOP / "app.py"
    return sorted([*found, *([app] if app.is_file() else [])])


def dotted(file: Path) -> str:
    """A file's name as `import` knows it."""
    names = file.relative_to(TOP).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def room_of(name: str) -> str:
    """The room of "nora_studio.nora.layer" is "nora"; that of the package itself is ""."""
    return name.partition(".")[2].partition(".")[0]


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
    return {room_of(name) for name in imported(file) if name.split(".")[0] == "nora_studio"}


def test_every_room_stands_in_the_table_once():
    table = [room for level in LEVELS for room in level]
    assert len(table) == len(set(table))
    rooms = {room_of(dotted(file)) for file in modules()}
    assert rooms <= set(table), f"give a level to {sorted(rooms - set(table))}"
    assert set(table) - rooms <= {"ui"}, f"no such room: {sorted(set(table) - rooms)}"


@pytest.mark.parametrize("file", modules(), ids=dotted)
def test_imports_go_only_to_lower_levels(file):
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    own = room_of(dotted(file))
    for room in rooms_used(file) - {own}:
        assert level[room] < level[own], f"{dotted(file)} imports {room}, which is not below it"


@pytest.mark.parametrize("room", ALONE)
def test_rooms_of_formulas_and_files_import_nothing_of_ours(room):
    for file in modules():
        if room_of(dotted(file)) == room:
            assert rooms_used(file) - {room} <= ALONE[room], dotted(file)


def test_the_app_never_imports_training_code():
    app = [file for file in scripts() if file.parent == TOP]
    for file in [*(file for file in modules() if room_of(dotted(file)) == "ui"), *app]:
        assert not rooms_used(file) & TRAINING_CODE, dotted(file)


def test_nobody_imports_an_entry_point():
    entries = {*ENTRY_FOLDERS, "app"}
    for file in [*modules(), *scripts()]:
        assert not {name.split(".")[0] for name in imported(file)} & entries, dotted(file)


def test_modules_and_scripts_keep_their_length():
    limits = dict.fromkeys(modules(), 300) | dict.fromkeys(scripts(), 200)
    limits |= dict.fromkeys((TOP / "tests").glob("*.py"), 300)
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
