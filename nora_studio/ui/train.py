"""The Train tab."""

import gradio as gr

from nora_studio.studio.studio import Studio
from nora_studio.ui.shared import Shared


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    gr.Markdown("Soon")
