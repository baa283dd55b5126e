"""Own HTML that answers: what carries `data-act` tells the server when it is pressed or changed."""

from typing import Any

import gradio as gr

from nora_studio.app.pages.escaping import as_sentence
from nora_studio.errors import StudioError

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""Of listeners that only keep the page as it is: no queue, no spinner, not for programs."""

HIDDEN: dict[str, Any] = {"show_progress": "hidden"}
"""Of listeners for programs too, and of those that may refuse: Gradio would lay the word "Error"
over every component that the listener fills, fields included; the refusal itself is a toast."""

ON_LOAD = """
const told = (target, extra) => ({...target.dataset, ...extra});
element.addEventListener('click', (event) => {
  const target = event.target.closest('[data-act]');
  if (target && !('value' in target && target.tagName !== 'BUTTON')) {
    trigger('select', told(target, {}));
  }
});
element.addEventListener('change', (event) => {
  const target = event.target.closest('[data-act]');
  if (target && 'value' in target && target.tagName !== 'BUTTON') {
    trigger('submit', told(target, {value: target.value}));
  }
});
"""
"""For `gr.HTML(js_on_load=ON_LOAD)`: buttons come as `select`, fields as `submit`."""


def act_of(event: gr.EventData) -> dict[str, str]:
    """What a page told, as text by name; anything else in it is left out."""
    facts = event._data if isinstance(event._data, dict) else {}
    return {str(name): value for name, value in facts.items() if isinstance(value, str)}


def told(error: StudioError, title: str = "That did not work") -> gr.Error:
    """An error in one sentence, as the page shows it."""
    return gr.Error(as_sentence(str(error)), title=title, duration=12, print_exception=False)
