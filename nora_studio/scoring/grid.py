"""A labelled comparison grid as one PNG: prompts down, columns across."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import temporary_path

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
GROUND, INK, SOFT_INK, EMPTY = "#f6f4ef", "#23211e", "#6d675f", "#e7e3da"


@dataclass(frozen=True)
class _Layout:
    """Lengths of a comparison grid in pixels, in proportion to an image's side."""

    tile: int
    label_share: float = 0.85
    """Width of the row labels, as a share of an image's side."""
    lines: int = 1
    """Lines of the topmost headings."""
    span: int = 0
    """Columns under each heading of a group; 0: no groups."""

    @property
    def gap(self) -> int:
        """Space between images."""
        return max(4, self.tile // 20)

    @property
    def margin(self) -> int:
        """Space around the grid."""
        return max(12, self.tile // 5)

    @property
    def labels(self) -> int:
        """Width of the column of row labels."""
        return round(self.tile * self.label_share)

    @property
    def heading(self) -> int:
        """Height of a line of headings, including the space below it."""
        return max(20, self.tile // 6)

    @property
    def line(self) -> int:
        """Height of each further line of a heading."""
        return round(max(10, self.tile // 12) * 1.3)

    @property
    def headings(self) -> int:
        """Height of all headings."""
        return self.heading + (self.lines - 1) * self.line + (self.heading if self.span else 0)

    def column(self, index: int) -> int:
        """Return the left edge of a column."""
        between = 2 * self.gap * (index // self.span) if self.span else 0
        return self.margin + self.labels + self.gap + index * (self.tile + self.gap) + between

    def right_of(self, columns: int) -> int:
        """Return the right edge of the last of a number of columns."""
        return self.column(columns - 1) + self.tile


def labelled_grid(
    rows: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    path: Path,
    tile: int = 256,
    photos: Sequence[Image.Image] = (),
    *,
    groups: Sequence[str] = (),
    lines: int = 1,
    label_share: float = 0.85,
) -> None:
    """Write a comparison as one PNG, with a row for each prompt.

    Args:
        rows: Images by row and column; None leaves a tile empty. Images that are not square are
            cut to their centre.
        tile: Side of each image in pixels.
        photos: The subject's own photos, as a strip above the grid.
        groups: Headings above the columns' own, each over an equal share of the columns.
        lines: Most lines into which the topmost headings are wrapped.
        label_share: Width of the row labels, as a share of `tile`.

    Raises:
        StudioError: rows, columns, groups and labels do not agree.
    """
    widths = {len(row) for row in rows}
    if widths != {len(column_labels)} or len(rows) != len(row_labels):
        raise StudioError(
            f"expected a label for each row and column of a grid; got {len(row_labels)} labels for "
            f"{len(rows)} rows, and {len(column_labels)} for rows of {sorted(widths)} images."
        )
    columns = len(column_labels)
    if groups and columns % len(groups):
        raise StudioError(
            f"expected groups of equal width; got {len(groups)} groups for {columns} columns."
        )
    layout = _Layout(tile, label_share, lines, columns // len(groups) if groups else 0)
    strip = _strip_side(layout, columns, len(photos)) + 2 * layout.gap if photos else 0
    height = len(rows) * (tile + layout.gap) - layout.gap
    canvas = Image.new(
        "RGB",
        (
            layout.right_of(columns) + layout.margin,
            2 * layout.margin + strip + layout.headings + height,
        ),
        GROUND,
    )
    top = layout.margin
    if photos:
        _draw_strip(canvas, layout, columns, photos)
        top += strip
    _draw_headings(canvas, layout, column_labels, groups, top)
    for index, (label, row) in enumerate(zip(row_labels, rows, strict=True)):
        place = top + layout.headings + index * (tile + layout.gap)
        _draw_label(canvas, layout, label, place, tile)
        for column, image in enumerate(row):
            _paste(canvas, image, (layout.column(column), place), tile)
    _save_png(canvas, path)


def _strip_side(layout: _Layout, columns: int, photos: int) -> int:
    width = layout.right_of(columns) - layout.column(0)
    return min(layout.tile * 3 // 5, (width - (photos - 1) * layout.gap) // photos)


def _draw_strip(
    canvas: Image.Image, layout: _Layout, columns: int, photos: Sequence[Image.Image]
) -> None:
    side = _strip_side(layout, columns, len(photos))
    _draw_label(canvas, layout, "the subject's photos", layout.margin, side)
    for index, photo in enumerate(photos):
        left = layout.column(0) + index * (side + layout.gap)
        _paste(canvas, photo, (left, layout.margin), side)


def _draw_headings(
    canvas: Image.Image,
    layout: _Layout,
    labels: Sequence[str],
    groups: Sequence[str],
    top: int,
) -> None:
    """Draw the columns' headings, and those of their groups above them."""
    bottom = top + layout.headings
    limit = 1 if groups else layout.lines
    for column, label in enumerate(labels):
        left = layout.column(column)
        ink = SOFT_INK if groups else INK
        _draw_heading(canvas, layout, label, (left, left + layout.tile), bottom, limit, ink)
    for group, label in enumerate(groups):
        first = group * layout.span
        ends = layout.column(first), layout.right_of(first + layout.span)
        _draw_heading(canvas, layout, label, ends, bottom - layout.heading, layout.lines)


def _draw_heading(
    canvas: Image.Image,
    layout: _Layout,
    label: str,
    ends: tuple[int, int],
    bottom: int,
    limit: int,
    ink: str = INK,
) -> None:
    """Draw a heading of at most `limit` lines between two edges, the last line above `bottom`."""
    font = ImageFont.load_default(max(10, layout.tile // 12))
    left, right = ends
    last = bottom - layout.heading + layout.heading * 2 // 5
    pen = ImageDraw.Draw(canvas)
    for above, text in enumerate(reversed(_wrap_evenly(label, font, right - left, limit))):
        place = ((left + right) // 2, last - above * layout.line)
        pen.text(place, text, fill=ink, font=font, anchor="mm")


def _draw_label(canvas: Image.Image, layout: _Layout, label: str, top: int, height: int) -> None:
    """Draw a row's label to the left of its images, left-aligned and centred in height."""
    size = max(9, layout.tile // 14)
    font = ImageFont.load_default(size)
    line = round(size * 1.4)
    lines = _wrap(label, font, layout.labels - layout.gap, max(1, height // line))
    start = top + (height - line * len(lines)) // 2
    pen = ImageDraw.Draw(canvas)
    for index, text in enumerate(lines):
        place = (layout.margin, start + index * line + line // 2)
        pen.text(place, text, fill=SOFT_INK, font=font, anchor="lm")


def _wrap(text: str, font: Font, width: int, limit: int) -> list[str]:
    """Break a text into at most `limit` lines no wider than `width` pixels."""
    lines = [""]
    for word in _replace_missing_glyphs(text, font).split():
        for piece in _cut(word, font, width):
            longer = f"{lines[-1]} {piece}".strip()
            if font.getlength(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    if len(lines) > limit:
        last = lines[limit - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        lines = [*lines[: limit - 1], f"{last.rstrip()}…"]
    return lines


def _wrap_evenly(text: str, font: Font, width: int, limit: int) -> list[str]:
    """Wrap as `_wrap` does, without a last line much shorter than the others."""
    lines = _wrap(text, font, width, limit)
    for percent in range(95, 45, -5):
        narrower = _wrap(text, font, width * percent // 100, limit + 1)
        if len(lines) == 1 or len(narrower) > len(lines):
            break
        lines = narrower
    return lines


def _cut(word: str, font: Font, width: int) -> list[str]:
    """Break a word into pieces that fit on a line; nearly every word is one piece."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _replace_missing_glyphs(text: str, font: Font) -> str:
    """Replace letters that the built-in font lacks by their base letters, or by "?"."""
    missing = _glyph("\uffff", font)
    spelling = {}
    for letter in set(text):
        plain = unicodedata.normalize("NFKD", letter)
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        available = (c for c in (letter, plain) if all(_glyph(x, font) != missing for x in c))
        spelling[letter] = letter if letter.isspace() else next(available, "?")
    return "".join(spelling[letter] for letter in text)


def _glyph(letter: str, font: Font) -> bytes:
    image = Image.new("L", (64, 64))
    ImageDraw.Draw(image).text((8, 8), letter, fill=255, font=font)
    return image.tobytes()


def _paste(
    canvas: Image.Image, image: Image.Image | None, place: tuple[int, int], side: int
) -> None:
    """Draw an image as a square with rounded corners; None draws an empty square."""
    square = Image.new("RGB", (side, side), EMPTY)
    if image is not None:
        square = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    canvas.paste(square, place, _rounded_mask(side))


@cache
def _rounded_mask(side: int) -> Image.Image:
    """Return a mask of a square with rounded corners, scaled down from four times its size.

    Pillow's own corners are not antialiased.
    """
    large = Image.new("L", (side * 4, side * 4), 0)
    edge = side * 4 - 1
    ImageDraw.Draw(large).rounded_rectangle((0, 0, edge, edge), radius=side // 5, fill=255)
    return large.resize((side, side), Image.Resampling.LANCZOS)


def _save_png(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = temporary_path(path)
    try:
        image.save(fresh, format="PNG")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
