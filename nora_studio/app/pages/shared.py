"""What the tabs hand to one another."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

POLL_SECONDS = 1.5
JUDGE: dict[str, Any] = {
    "label": "Judge (CLIP)",
    "placeholder": "ViT-B-32:openai",
    "min_width": 280,
    "info": "Needed on any base but the miniature, whose own judge knows only toy pictures. "
    "ARCHITECTURE:WEIGHTS, hf-hub:owner/name or a directory.",
}
"""The field that names who gives the scores."""


@dataclass(frozen=True)
class SharedState:
    """Components that several tabs read and set."""

    page: gr.Blocks
    """For what is done when somebody arrives: `page.load`."""
    tabs: gr.Tabs
    """`gr.Tabs(selected=...)` by it leads to another tab: train, watch, compare, adapters, scores,
    history."""
    training: gr.State
    """Name of the training that Watch shows."""
    adapters: gr.State
    """Relative paths of adapters that Compare is to draw: "runs/mug-nora"."""
    strengths: gr.State
    """Their strengths, in the same order; empty: 1 each."""
    settings: gr.State
    """A run's name whose settings Train is to take over, once."""


@dataclass(frozen=True)
class TabContext:
    """Where a tab is built."""

    tab: gr.Tab
    timer: gr.Timer
    """Ticks every `POLL_SECONDS` while the tab is open."""

    @property
    def refresh_events(self) -> list[Any]:
        """When a tab is to look again at what it shows: as it opens, and every tick."""
        return [self.timer.tick, self.tab.select]
