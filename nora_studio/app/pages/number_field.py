"""A field for an optional number; if it is empty, the studio chooses the value.

It is a text field, because Gradio's `gr.Number` shows an empty value as 0 once the browser mounts
it, and sends that 0 with the next change of any field.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError

_WHOLE = re.compile(r"[+-]?[0-9]{1,15}")
_MAX_CHARACTERS = 32
SCRIPT = """<script>
(() => {
  const field = (event) => event.target.closest && event.target.closest('.number-field');
  const isWrong = (box, text) => text !== '' && !(box.classList.contains('whole')
    ? /^[+-]?[0-9]+$/.test(text) : Number.isFinite(Number(text)));
  const mark = (event) => {
    const box = field(event);
    if (!box || !('value' in event.target)) return;
    const wrong = isWrong(box, event.target.value.trim());
    event.target.setAttribute('aria-invalid', wrong);
    box.classList.toggle('wrong', wrong);
  };
  addEventListener('focusin', (event) => {
    const box = field(event);
    if (box) event.target.inputMode = box.classList.contains('whole') ? 'numeric' : 'decimal';
  });
  addEventListener('focusout', mark);
  addEventListener('input', (event) => {
    const box = field(event);
    if (box && box.classList.contains('wrong')) mark(event);
  });
})();
</script>"""
"""For the page's head: marks a field without a valid number, and requests a numeric keyboard."""


@dataclass(frozen=True)
class NumberField:
    """The label and range of an optional number."""

    label: str
    is_whole: bool = True
    least: float | None = None
    most: float | None = None
    step: int = 1
    """A whole number must be a multiple of it."""

    def build(
        self, value: float | None = None, placeholder: str = "automatic", **look: Any
    ) -> gr.Textbox:
        """Lay out the component.

        Args:
            value: The first value; None: empty.
            placeholder: What an empty field means.
        """
        kind = ["number-field", "whole"] if self.is_whole else ["number-field"]
        text = "" if value is None else f"{value:g}"
        if value is not None and float(text) != value:
            text = str(value)
        return gr.Textbox(
            text, label=self.label, placeholder=placeholder, max_length=_MAX_CHARACTERS,
            elem_classes=kind, **look,
        )  # fmt: skip

    def read(self, value: object) -> int | float | None:
        """Return the number in the field; None where it is empty.

        Raises:
            StudioError: the text is not a number, or out of range.
        """
        text = "" if value is None else str(value).strip()
        if not text:
            return None
        number = self._number(text)
        if (
            number is None
            or (self.least is not None and number < self.least)
            or (self.most is not None and number > self.most)
            or (self.is_whole and number % self.step)
        ):
            raise StudioError(
                f"{self.label}: expected {self._expected}, or an empty field; got {text[:40]!r}."
            )
        return number

    def _number(self, text: str) -> int | float | None:
        if self.is_whole:
            return int(text) if _WHOLE.fullmatch(text) else None
        try:
            number = float(text)
        except ValueError:
            return None
        return number if math.isfinite(number) and len(text) <= _MAX_CHARACTERS else None

    @property
    def _expected(self) -> str:
        kind = "a whole number" if self.is_whole else "a number such as 0.001"
        kind = kind if self.step == 1 else f"a multiple of {self.step}"
        if self.least is not None and self.most is not None:
            return f"{kind} from {self.least:g} to {self.most:g}"
        return kind if self.least is None else f"{kind} of at least {self.least:g}"
