"""Grids place every image by its labels; pages are self-contained."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nora_studio.errors import StudioError
from nora_studio.scoring.report import (
    Commands,
    Comparison,
    Photos,
    Table,
    html_report,
    labelled_grid,
)

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 40), (30, 40, 200)


def plain(color: tuple[int, int, int], size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


def areas(file, colors) -> list[tuple[int, int, int, int]]:
    """Each color's bounding box (left, top, right, bottom) in a picture."""
    levels = np.asarray(Image.open(file).convert("RGB"))
    boxes = []
    for color in colors:
        rows, columns = np.nonzero((levels == color).all(axis=-1))
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return boxes


def test_a_grid_keeps_rows_and_columns_and_full_size(tmp_path):
    rows = [[plain(RED), plain(GREEN)], [plain(BLUE), None]]
    labelled_grid(rows, ["one", "two"], ["base", "NoRA"], tmp_path / "grid.png", tile=96)
    red, green, blue = areas(tmp_path / "grid.png", [RED, GREEN, BLUE])
    assert red[1::2] == green[1::2]
    assert red[0::2] == blue[0::2]
    assert red[2] < green[0]
    assert red[3] < blue[1]
    for left, top, right, bottom in (red, green, blue):
        assert (right - left, bottom - top) == (96, 96)


def test_photos_are_above_the_grid_at_its_width(tmp_path):
    strip = [plain(GREEN), plain(BLUE)]
    file = tmp_path / "grid.png"
    labelled_grid([[plain(RED)] * 3], ["one"], ["a", "b", "c"], file, tile=96, photos=strip)
    red, green, blue = areas(file, [RED, GREEN, BLUE])
    assert green[3] < red[1]
    assert green[0] == red[0]
    assert blue[2] <= red[2]


def test_images_of_other_shapes_are_cropped_not_squeezed(tmp_path):
    wide = plain(RED, (128, 64))
    wide.paste(BLUE, (0, 0, 32, 64))  # left quarter, outside the centre square
    labelled_grid([[wide]], ["one"], ["base"], tmp_path / "grid.png", tile=64)
    levels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert (levels == RED).all(axis=-1).any()
    assert not (levels == BLUE).all(axis=-1).any()


@pytest.mark.parametrize("label", ["", "mug " * 200, "Donaudampfschiff" * 20, "größer 杯", "a\nb"])
def test_any_label_fits(tmp_path, label):
    labelled_grid([[plain(RED)]], [label], [label or "x"], tmp_path / "grid.png", tile=64)
    (left, top, right, bottom) = areas(tmp_path / "grid.png", [RED])[0]
    assert (right - left, bottom - top) == (64, 64)


def test_labels_that_do_not_match_are_refused(tmp_path):
    for rows, down, across in (
        ([[plain(RED)]], ["one", "two"], ["base"]),
        ([[plain(RED)]], ["one"], ["base", "NoRA"]),
        ([[plain(RED)], []], ["one", "two"], ["base"]),
        ([], [], ["base"]),
    ):
        with pytest.raises(StudioError, match="label"):
            labelled_grid(rows, down, across, tmp_path / "grid.png")
    assert not (tmp_path / "grid.png").exists()


class Page(HTMLParser):
    """Tags in order, with their attributes, and every text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


@pytest.fixture
def page_text(tmp_path) -> str:
    file = tmp_path / "deep" / "report.html"
    html_report(
        file,
        "Mug <b> & more",
        [
            Photos("Photos", [plain(RED)] * 2, "five & more"),
            Comparison("Places", ["base", "NoRA"], [('a "[V]" <mug>', [plain(RED), plain(BLUE)])]),
            Table("Scores", ["", "CLIP-T"], [["base", "0.3"], ["NoRA <1>", "0.4"]]),
            Commands("Again", ["nora-studio demo --x '<y>'"]),
        ],
        lead="It <works>.",
    )
    return file.read_text(encoding="utf-8")


def test_a_page_needs_no_other_files(page_text):
    page = Page(page_text)
    assert page.open == []
    assert not re.search(r"(?:href|src|url\()\W*(?:https?:)?//", page_text)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert all((a["src"] or "").startswith("data:") for tag, a in page.tags if tag == "img")


def test_a_page_escapes_all_text(page_text):
    page = Page(page_text)
    for text in ("Mug <b> & more", "It <works>.", "five & more", 'a "[V]" <mug>', "NoRA <1>",
                 "nora-studio demo --x '<y>'"):  # fmt: skip
        assert text in page.texts


def test_images_on_a_page_are_the_given_ones_with_descriptions(page_text):
    pictures = [attributes for tag, attributes in Page(page_text).tags if tag == "img"]
    assert [p["alt"] for p in pictures][2:] == ['base: a "[V]" <mug>', 'NoRA: a "[V]" <mug>']
    for picture, color in zip(pictures, (RED, RED, RED, BLUE), strict=True):
        data = base64.b64decode((picture["src"] or "").partition(",")[2])
        shown = Image.open(io.BytesIO(data))
        assert shown.size == (64, 64)
        assert np.abs(np.asarray(shown, dtype=int) - color).max() <= 3


def test_a_grids_groups_are_separated_and_share_a_heading(tmp_path):
    rows = [[plain(RED), plain(GREEN), plain(BLUE), None]]
    heads = ["nora", "lora"] * 2
    for name, groups in (("plain", ()), ("grouped", ("one prompt", "another"))):
        labelled_grid(rows, ["step 1"], heads, tmp_path / f"{name}.png", 96, groups=groups)
    apart = areas(tmp_path / "plain.png", [RED, GREEN, BLUE])
    red, green, blue = areas(tmp_path / "grouped.png", [RED, GREEN, BLUE])
    assert green[0] - red[2] == apart[1][0] - apart[0][2]
    assert blue[0] - green[2] > 2 * (green[0] - red[2])
    assert red[1] > apart[0][1]  # room for the second heading
    with pytest.raises(StudioError, match="got 3 groups for 4 columns"):
        labelled_grid(rows, ["step 1"], heads, tmp_path / "no.png", groups=("a", "b", "c"))


def test_a_long_heading_takes_up_to_the_allowed_lines(tmp_path):
    words = "a photo of a mug in the snow under a blue sky"
    tops = []
    for lines in (1, 3):
        labelled_grid([[plain(RED)]], ["base"], [words], tmp_path / "g.png", 96, lines=lines)
        tops.append(areas(tmp_path / "g.png", [RED])[0][1])
        with Image.open(tmp_path / "g.png") as grid:
            head = np.asarray(grid.convert("L"))[: tops[-1]]
        dark = (head < 120).any(axis=1)
        assert (np.diff(dark.astype(int)) == 1).sum() == lines
    assert tops[1] > tops[0]
