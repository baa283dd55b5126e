"""Events of the page's own HTML: elements with `data-act` send an event to the server."""

from typing import Any

import gradio as gr

from nora_studio.app.pages.escaping import as_sentence
from nora_studio.errors import StudioError

PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""For listeners that only update the page: no queue, no spinner, not in the API."""

NO_SPINNER: dict[str, Any] = {"show_progress": "hidden"}
"""For listeners in the API, and for those that may raise an error: otherwise Gradio would cover
every output component with the word "Error"; the error itself is shown as a message."""

FORWARD_EVENTS = """
const payload = (target, extra) => ({...target.dataset, ...extra});
element.addEventListener('click', (event) => {
  const target = event.target.closest('[data-act]');
  if (target && !('value' in target && target.tagName !== 'BUTTON')) {
    trigger('select', payload(target, {}));
  }
});
element.addEventListener('change', (event) => {
  const target = event.target.closest('[data-act]');
  if (target && 'value' in target && target.tagName !== 'BUTTON') {
    trigger('submit', payload(target, {value: target.value}));
  }
});
"""
"""For `gr.HTML(js_on_load=FORWARD_EVENTS)`: buttons send `select`, fields send `submit`."""


def event_data(event: gr.EventData) -> dict[str, str]:
    """Return the text values in the data of a page's event."""
    data = event._data if isinstance(event._data, dict) else {}
    return {str(name): value for name, value in data.items() if isinstance(value, str)}


def error_toast(error: StudioError, title: str = "Something went wrong") -> gr.Error:
    """Return a StudioError as the error message that the page shows."""
    return gr.Error(as_sentence(str(error)), title=title, duration=12, print_exception=False)
