"""Text of people's on the page: as HTML, and inert to Gradio's templates."""

import html


def escaped(text: object) -> str:
    """A text as HTML; the page's templates, which read braces and dollars, find none in it."""
    plain = html.escape(str(text))
    return plain.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")
