"""The README and its pages: short, linked, true to their records and to the code they name."""

import ast
import re
import runpy
from pathlib import Path

import pytest
from support.modules import PACKAGE
from support.places import TOP

import nora_studio
from nora_studio.adapters.methods.table import METHODS

README = TOP / "README.md"
PAGES = [README, *sorted((TOP / "assets").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
FIGURES = runpy.run_path(str(TOP / "evaluation" / "figures.py"))


def name_of(page: Path) -> str:
    return str(page.relative_to(TOP))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def names_in(file: Path) -> set[str]:
    """Every class, function and constant of a module, and every method as `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                inner = (one for one in node.body if isinstance(one, ast.FunctionDef))
                found |= {f"{node.name}.{one.name}" for one in inner}
    return found


def test_the_readme_has_at_most_130_lines_of_ordinary_length():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    prose = [line for line in lines if not line.startswith(("|", "python3 -m venv"))]
    assert [line for line in prose if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_to_a_file_and_an_anchor(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_script_and_test_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    for file in re.findall(r"(?<![\w/-])((?:tests|training|evaluation)/[\w/-]+\.py)", text):
        assert (TOP / file).is_file(), file


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        linked = {(page.parent / link).resolve() for link in links}
        waiting += linked - reached
    assert set(PAGES) <= reached


def test_where_to_change_what_names_files_and_symbols_that_exist():
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| to change |") :].split("\n\n")[0]
    rows = table.splitlines()[2:]
    assert len(rows) >= 6
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)` \(((?:`[\w.]+`(?:, )?)+)\)", row)
        assert named and len(named) == row.count(".py`"), row
        for file, symbols in named:
            assert set(re.findall(r"`([\w.]+)`", symbols)) <= names_in(PACKAGE / file), row
    assert METHODS["dora"].sdxl.unet, "the row on DoRA's rate leads to its record"


def test_the_rooms_of_the_readme_are_those_of_the_package():
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| room of") :].split("\n\n")[0]
    named = re.findall(r"^\| `(\w+)/`", table, re.MULTILINE)
    assert sorted(named) == sorted(one.parent.name for one in PACKAGE.glob("*/__init__.py"))


def test_the_figures_of_each_page_are_those_of_its_records():
    for name in FIGURES["PAGES"]:
        page = (TOP / name).read_text(encoding="utf-8")
        assert FIGURES["BLOCK"].search(page), f"{name}: no figures"
        assert FIGURES["filled"](page) == page, f"{name}: run python evaluation/figures.py"
        assert page.count("<!-- figures: ") == page.count("<!-- end of figures -->")


def test_every_block_of_figures_stands_on_a_page():
    pages = "".join((TOP / name).read_text(encoding="utf-8") for name in FIGURES["PAGES"])
    assert {block for _, block, _ in FIGURES["BLOCK"].findall(pages)} == set(FIGURES["BLOCKS"])
    marked = {name_of(page) for page in PAGES if "<!-- figures: " in page.read_text("utf-8")}
    assert marked == set(FIGURES["PAGES"]), "figures on a page that the script does not write"


def test_a_figure_that_was_changed_by_hand_is_written_again():
    page = README.read_text(encoding="utf-8")
    changed = page.replace("0.787", "0.788")
    assert changed != page and FIGURES["filled"](changed) == page


def test_the_changelog_begins_with_this_version():
    text = (TOP / "assets" / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+) \(\d{4}-\d\d-\d\d\)$", text, re.MULTILINE)
    numbers = [tuple(map(int, version.split("."))) for version in versions]
    assert numbers == sorted(numbers, reverse=True)
    assert versions[0] == nora_studio.__version__


def test_the_hooks_before_a_commit_download_nothing():
    text = (TOP / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert re.findall(r"language: (\S+)", text) == ["system"] * 3
    entries = re.findall(r"entry: (.+)", text)
    assert [entry.split()[0] for entry in entries] == ["ruff", "ruff", "pyright"]
