"""Own HTML that answers: what carries `data-act` tells the server when it is pressed or changed."""

from typing import Any

import gradio as gr

from nora_studio.app.pages.escaping import as_sentence
from nora_studio.errors import StudioError

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""Of listeners that only keep the page as it is: no queue, no spinner, not for programs."""

NO_SPINNER: dict[str, Any] = {"show_progress": "hidden"}
"""Of listeners for programs too, and of those that may refuse: Gradio would lay the word "Error"
over every component that the listener fills, fields included; the refusal itself is a toast."""

FORWARD_EVENTS = """
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
"""For `gr.HTML(js_on_load=FORWARD_EVENTS)`: buttons come as `select`, fields as `submit`."""


def event_data(event: gr.EventData) -> dict[str, str]:
    """Return the fields of a page's event that are text."""
    facts = event._data if isinstance(event._data, dict) else {}
    return {str(name): value for name, value in facts.items() if isinstance(value, str)}


def error_toast(error: StudioError, title: str = "That did not work") -> gr.Error:
    """Return a StudioError as the error message that the page shows."""
    return gr.Error(as_sentence(str(error)), title=title, duration=12, print_exception=False)
