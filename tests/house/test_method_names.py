"""What a method is stands in its record: no other file asks for a method by its name."""

import ast
from pathlib import Path

import pytest
from support.modules import PACKAGE, TOP, modules, scripts

from nora_studio.adapters.methods.table import METHODS

EXCEPTIONS = {
    "adapters/methods/table.py": "the records themselves",
    "adapters/tuners/config.py": "the starts that a tuner's saved configuration names",
    "adapters/tuners/decomposed.py": "the starts that a tuner's saved configuration names",
    "adapters/files/model_card.py": "a file format: the Hub's tags and words",
    "app/pages/line_chart.py": "the theme's colours",
    "app/pages/html.py": "the theme's colours",
    "app/pages/train_form.py": "an option's default: the two that the form offers",
    "app/server/training.py": "an option's default: the two that the form offers",
    "cli/demo.py": "the pair that the demo trains",
    "tasks/commonsense/costs.py": "rows of the paper's Table 1 and their arithmetic",
    "tasks/commonsense/recommended.py": "option defaults for language models",
    "tasks/fewshot/methods/__init__.py": "the rows of the paper's Table 2",
    "scoring/result_records.py": "the rows of the tables in the documents",
    "evaluation/figures.py": "the rows of the tables in the documents",
    "evaluation/kill_test.py": "the pair that it kills",
}
"""Files that may name methods in a comparison, a collection or a look-up, and why."""
ASKS = {"get", "pop", "setdefault", "index", "count", "startswith", "endswith", "issuperset"}
"""Calls by which a name may be asked for without a comparison."""


def place_of(file: Path) -> str:
    """A file's name in the package, or in the checkout for what stands outside."""
    return str(file.relative_to(PACKAGE if file.is_relative_to(PACKAGE) else TOP))


def names_asked_for(source: str) -> list[tuple[int, str]]:
    """Line and name of each method that code compares with, looks up, or keeps in a collection."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                asked = [node.left, *node.comparators]
            case ast.Set() | ast.Tuple() | ast.List():
                asked = node.elts
            case ast.Dict():
                asked = node.keys
            case ast.Subscript():
                asked = [node.slice]
            case ast.MatchValue():
                asked = [node.value]
            case ast.Call(func=ast.Attribute(attr=name)) if name in ASKS:
                asked = node.args
            case _:
                continue
        for one in asked:
            if isinstance(one, ast.Constant) and one.value in METHODS:
                found.append((one.lineno, one.value))
            elif (
                isinstance(one, ast.Attribute)
                and ast.unparse(one.value) == "PeftType"
                and one.attr.isupper()
            ):
                found.append((one.lineno, one.attr))
    return found


@pytest.mark.parametrize(
    "line",
    [
        'method == "nora"',
        "kind == PeftType.ADALORA",
        '"lora+" in options.methods',
        'method in ("lora", "x")',
        'LIKE = frozenset({"dora"})',
        'rules = {"adalora": 1}',
        'runs.get("oft")',
        'settings["vera"]',
        'label.startswith("lora")',
        'match method:\n    case "dylora" | "x":\n        pass',
    ],
)
def test_every_way_to_ask_for_a_name_is_seen(line):
    assert len(names_asked_for(line)) == 1


def test_no_file_branches_on_a_methods_name():
    files = {place_of(file): file for file in [*modules(), *scripts()]}
    found = {
        place: asked
        for place, file in files.items()
        if (asked := names_asked_for(file.read_text(encoding="utf-8")))
    }
    assert len(files) > 200
    assert {place: found[place] for place in found.keys() - EXCEPTIONS} == {}
    assert EXCEPTIONS.keys() - found.keys() == set()  # One that no longer needs to be there.
