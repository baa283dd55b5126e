"""Results as a self-contained HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from nora_studio.runs.atomic import write_text
from nora_studio.scoring.grid import labelled_grid

__all__ = ["Commands", "Comparison", "Photos", "Section", "Table", "html_report", "labelled_grid"]

STRIP_COLUMNS = 6


class Section(Protocol):
    """A section of a page: a heading and the HTML below it."""

    @property
    def heading(self) -> str:
        """The section's heading."""
        ...

    def body(self) -> str:
        """Return the HTML below the heading."""
        ...


@dataclass(frozen=True)
class Photos:
    """A strip of images."""

    heading: str
    images: Sequence[Image.Image]
    caption: str = ""

    def body(self) -> str:
        """Return the strip and its caption."""
        tags = "".join(_image_tag(p, f"photo {i + 1}") for i, p in enumerate(self.images))
        columns = min(len(self.images), STRIP_COLUMNS)
        strip = f'<div class="strip" style="--columns:{columns}">{tags}</div>'
        return strip + _paragraph(self.caption)


@dataclass(frozen=True)
class Comparison:
    """Images by prompt and column."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image.Image]]]
    """Prompt, and one image per column."""
    caption: str = ""

    def body(self) -> str:
        """Return the caption and a grid of the images."""
        heads = "".join(f"<b>{html.escape(label)}</b>" for label in self.columns)
        rows = [f'<div class="row heads"><span></span>{heads}</div>']
        for prompt, images in self.rows:
            tags = "".join(
                _image_tag(p, f"{label}: {prompt}")
                for p, label in zip(images, self.columns, strict=True)
            )
            rows.append(f'<div class="row"><span>{html.escape(prompt)}</span>{tags}</div>')
        grid = f'<div class="grid" style="--columns:{len(self.columns)}">{"".join(rows)}</div>'
        return _paragraph(self.caption) + grid


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row, the others hold values."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    def body(self) -> str:
        """Return the table and its caption."""
        head = "".join(f'<th scope="col">{html.escape(label)}</th>' for label in self.columns)
        lines = []
        for first, *values in self.rows:
            cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
            lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        return f'<div class="wide" tabindex="0">{table}</div>{_paragraph(self.caption)}'


@dataclass(frozen=True)
class Commands:
    """The commands that reproduce the page's results."""

    heading: str
    commands: Sequence[str]
    caption: str = ""

    def body(self) -> str:
        """Return the caption and the commands."""
        blocks = "".join(f"<pre>{html.escape(command)}</pre>" for command in self.commands)
        return _paragraph(self.caption) + blocks


def html_report(path: Path, title: str, sections: Sequence[Section], lead: str = "") -> None:
    """Write a self-contained page: images are embedded, and nothing is requested from outside.

    Args:
        title: Heading of the page and title of its tab.
        sections: The sections from top to bottom.
        lead: The result in a sentence or two, below the title.
    """
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    parts = [
        f"<section><h2>{html.escape(part.heading)}</h2>{part.body()}</section>" for part in sections
    ]
    lead_tag = f'<p class="lead">{html.escape(lead)}</p>' if lead else ""
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{html.escape(title)}</h1>{lead_tag}</header>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _paragraph(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>' if text else ""


def _image_tag(image: Image.Image, description: str) -> str:
    buffer = io.BytesIO()
    # Colour subsampling blurs the small saturated patterns by which a subject is recognised.
    image.convert("RGB").save(buffer, format="JPEG", quality=90, subsampling=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return (
        f'<img {size} alt="{html.escape(description, quote=True)}" '
        f'src="data:image/jpeg;base64,{data}">'
    )
