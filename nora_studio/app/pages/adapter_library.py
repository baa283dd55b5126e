"""Event handlers for the library of the Adapters tab: choosing, adding, removing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_actions import HAVE_STRENGTHS
from nora_studio.app.pages.adapter_cards import MAX_STRENGTH, chosen_view, library_view
from nora_studio.app.pages.escaping import as_sentence
from nora_studio.app.pages.html_events import error_toast, event_data
from nora_studio.app.server.adapter_uploads import add_adapter
from nora_studio.app.server.library import find_entry, library, remove_file, restore_file
from nora_studio.app.server.limits import MAX_MIXED
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.uploads import Upload
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

Selection = dict[str, float]
"""Strengths of the chosen adapters by path, in the order they were chosen."""


@dataclass(frozen=True)
class LibraryEvents:
    """Handlers of the library's events. Most return the same four outputs, those of `views`."""

    studio: Studio

    def views(self, workspace: Workspace, selection: Selection, action: str) -> list[Any]:
        """Return the cards, the chosen adapters, the selection, and the Compare button."""
        entries = library(workspace)
        known = {entry.path: entry for entry in entries}
        kept = {path: strength for path, strength in selection.items() if path in known}
        chosen = chosen_view(known, kept, action in HAVE_STRENGTHS)
        button = gr.Button(interactive=bool(kept))
        return [library_view(entries, kept, workspace), chosen, kept, button]

    def load(self, selection: Selection, action: str, request: gr.Request):
        """Show the current library."""
        return self.views(self.studio.workspace(request.headers), selection, action)

    def on_press(self, selection: Selection, action: str, event: gr.EventData, request: gr.Request):
        """Select or deselect the pressed card, or remove its file.

        Returns the views, then the button that undoes a removal and the name that it restores.
        """
        data, workspace = event_data(event), self.studio.workspace(request.headers)
        path = data.get("adapter", "")
        rest = without_adapter(selection, path)
        try:
            entry = find_entry(workspace, path)
            if data.get("act") == "choose":
                is_on = data.get("on") == "yes" and entry.card is not None
                if is_on and len(rest) >= MAX_MIXED:
                    raise StudioError(
                        f"at most {MAX_MIXED} adapters can be combined. Remove one first."
                    )
                selection = rest | {path: 1.0} if is_on else rest
                # The browser has marked the card already; not sending the cards keeps the focus.
                return [
                    gr.skip(),
                    *self.views(workspace, selection, action)[1:],
                    gr.skip(),
                    gr.skip(),
                ]
            if data.get("act") != "remove":
                return [gr.skip()] * 6
            remove_file(workspace, path)
        except StudioError as error:
            raise error_toast(error) from error
        undo = gr.Button("Undo removal", visible=True)
        return [*self.views(workspace, rest, action), undo, entry.title]

    def deselect(self, selection: Selection, action: str, event: gr.EventData, request: gr.Request):
        """Deselect a chosen adapter."""
        data, workspace = event_data(event), self.studio.workspace(request.headers)
        if data.get("act") == "drop":
            selection = without_adapter(selection, data.get("adapter", ""))
        return self.views(workspace, selection, action)

    def set_strength(self, selection: Selection, event: gr.EventData) -> Selection:
        """Set the strength of a chosen adapter."""
        data = event_data(event)
        path = data.get("adapter", "")
        try:
            strength = min(MAX_STRENGTH, max(0.0, float(data.get("value", "1"))))
        except ValueError:
            return selection
        return selection | {path: strength} if path in selection else selection

    def receive(
        self, files: Sequence[str] | None, selection: Selection, action: str, request: gr.Request
    ):  # fmt: skip
        """Store uploaded adapter files (.safetensors)."""
        workspace = self.studio.workspace(request.headers)
        visitor, uploads = workspace.folder.name, self.studio.auth.uploads
        # New tokens are stored next to their adapter, which must be stored first.
        adapters_first = sorted(
            files or (), key=lambda file: ".embedding." in Path(file).name.lower()
        )
        for file in adapters_first:
            try:
                entry = Upload(uploads.claim(visitor, file), Path(file).name)
                add_adapter(workspace, entry)
                uploads.release(visitor, file)
            except StudioError as error:
                gr.Warning(as_sentence(str(error)), title="Left out", duration=12)
        return self.views(workspace, selection, action)

    def undo(self, name: str, selection: Selection, action: str, request: gr.Request):
        """Restore the file that was removed last, and hide the button."""
        workspace = self.studio.workspace(request.headers)
        try:
            restore_file(workspace, name)
        except StudioError as error:
            raise error_toast(error) from error
        return [*self.views(workspace, selection, action), gr.Button(visible=False)]

    def to_compare(self, selection: Selection, request: gr.Request):
        """Open the chosen adapters in Compare."""
        workspace = self.studio.workspace(request.headers)
        known = {entry.path for entry in library(workspace)}
        paths = [path for path in selection if path in known]
        if not paths:
            raise error_toast(StudioError("no adapter is chosen. Choose one first."))
        return paths, gr.Tabs(selected="compare")


def without_adapter(selection: Selection, path: str) -> Selection:
    """Return a selection without one adapter."""
    return {other: strength for other, strength in selection.items() if other != path}
