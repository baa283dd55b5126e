"""Texts on the page: escaped for HTML and Gradio's templates, and errors as sentences."""

import html
import re


def as_sentence(text: str) -> str:
    """Begin an error with a capital letter, unless it begins with a file, a run or an option."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+[ ,:]", text) else text


def escaped(text: object) -> str:
    """Escape a text for HTML and for the page's templates, which read braces and dollar signs."""
    plain = html.escape(str(text))
    return plain.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
