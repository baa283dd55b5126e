"""State that the tabs share."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

POLL_SECONDS = 1.5
JUDGE: dict[str, Any] = {
    "label": "Judge (CLIP)",
    "placeholder": "ViT-B-32:openai",
    "min_width": 280,
    "info": "Needed for every base except the miniature, whose judge knows only toy images. "
    "ARCHITECTURE:WEIGHTS, hf-hub:owner/name or a directory.",
}
"""Arguments of the field that names the judge."""


@dataclass(frozen=True)
class SharedState:
    """Components that several tabs read and set."""

    page: gr.Blocks
    """For `page.load`, when a visitor opens the page."""
    tabs: gr.Tabs
    """An update `gr.Tabs(selected=...)` opens another tab: train, watch, compare, adapters, scores,
    history."""
    training: gr.State
    """Name of the training that Watch shows."""
    adapters: gr.State
    """Relative paths of the adapters that Compare shows next: "runs/mug-nora"."""
    strengths: gr.State
    """Their strengths, in the same order; empty: 1 each."""
    settings: gr.State
    """Name of the run whose settings Train loads next, once."""


@dataclass(frozen=True)
class TabContext:
    """The tab that a page is built in, and its timer."""

    tab: gr.Tab
    timer: gr.Timer
    """Ticks every `POLL_SECONDS` while the tab is open."""

    @property
    def refresh_events(self) -> list[Any]:
        """The events that refresh a tab: opening it, and every tick of its timer."""
        return [self.timer.tick, self.tab.select]
