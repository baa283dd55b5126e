"""The shelf of the Adapters tab: choosing, adding, removing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_bench import HAVE_STRENGTHS
from nora_studio.app.pages.adapter_cards import MOST_STRENGTH, chosen_view, shelf_view
from nora_studio.app.pages.escaping import as_sentence
from nora_studio.app.pages.html_events import act_of, told
from nora_studio.app.server.adapter_uploads import add_adapter
from nora_studio.app.server.library import bring_back, find_entry, library, remove_file
from nora_studio.app.server.limits import MOST_MIXED
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.uploads import Incoming
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

Picks = dict[str, float]
"""Strength of each chosen adapter by its path, in the order they were chosen."""


@dataclass(frozen=True)
class Shelf:
    """What the shelf's events do. Most answer with its views: cards, chosen ones, picks, button."""

    studio: Studio

    def views(self, workspace: Workspace, held: Picks, action: str) -> list[Any]:
        """The cards, the chosen ones, what of these is still there, and the way to Compare."""
        entries = library(workspace)
        known = {entry.path: entry for entry in entries}
        kept = {path: strength for path, strength in held.items() if path in known}
        chosen = chosen_view(known, kept, action in HAVE_STRENGTHS)
        button = gr.Button(interactive=bool(kept))
        return [shelf_view(entries, kept, workspace), chosen, kept, button]

    def arrive(self, held: Picks, action: str, request: gr.Request):
        """Show what there is now."""
        return self.views(self.studio.workspace(request.headers), held, action)

    def press(self, held: Picks, action: str, event: gr.EventData, request: gr.Request):
        """A card was chosen or given back, or its file is to be removed.

        Beside the views: the button that undoes a removal, and what it would bring back.
        """
        act, workspace = act_of(event), self.studio.workspace(request.headers)
        path = act.get("adapter", "")
        rest = without(held, path)
        try:
            entry = find_entry(workspace, path)
            if act.get("act") == "choose":
                is_on = act.get("on") == "yes" and entry.card is not None
                if is_on and len(rest) >= MOST_MIXED:
                    raise StudioError(
                        f"at most {MOST_MIXED} adapters can be combined. Take one out first."
                    )
                held = rest | {path: 1.0} if is_on else rest
                # The card has turned by itself; the shelf stays, and the keyboard's place on it.
                return [gr.skip(), *self.views(workspace, held, action)[1:], gr.skip(), gr.skip()]
            if act.get("act") != "remove":
                return [gr.skip()] * 6
            remove_file(workspace, path)
        except StudioError as error:
            raise told(error) from error
        undo = gr.Button("Undo removal", visible=True)
        return [*self.views(workspace, rest, action), undo, entry.title]

    def drop(self, held: Picks, action: str, event: gr.EventData, request: gr.Request):
        """Take one out of the chosen ones."""
        act, workspace = act_of(event), self.studio.workspace(request.headers)
        if act.get("act") == "drop":
            held = without(held, act.get("adapter", ""))
        return self.views(workspace, held, action)

    def weigh(self, held: Picks, event: gr.EventData) -> Picks:
        """Set the strength of a chosen one."""
        act = act_of(event)
        path = act.get("adapter", "")
        try:
            strength = min(MOST_STRENGTH, max(0.0, float(act.get("value", "1"))))
        except ValueError:
            return held
        return held | {path: strength} if path in held else held

    def receive(
        self, files: Sequence[str] | None, held: Picks, action: str, request: gr.Request
    ):  # fmt: skip
        """Take adapter files (.safetensors)."""
        workspace = self.studio.workspace(request.headers)
        visitor, uploads = workspace.folder.name, self.studio.auth.uploads
        # New tokens go beside an adapter, which must be there before them.
        given = sorted(files or (), key=lambda file: ".embedding." in Path(file).name.lower())
        for file in given:
            try:
                entry = Incoming(uploads.claim(visitor, file), Path(file).name)
                add_adapter(workspace, entry)
                uploads.release(visitor, file)
            except StudioError as error:
                gr.Warning(as_sentence(str(error)), title="Left out", duration=12)
        return self.views(workspace, held, action)

    def undo(self, name: str, held: Picks, action: str, request: gr.Request):
        """Bring back what was removed last; the button goes."""
        workspace = self.studio.workspace(request.headers)
        try:
            bring_back(workspace, name)
        except StudioError as error:
            raise told(error) from error
        return [*self.views(workspace, held, action), gr.Button(visible=False)]

    def to_compare(self, held: Picks, request: gr.Request):
        """Hand the chosen adapters to Compare."""
        workspace = self.studio.workspace(request.headers)
        known = {entry.path for entry in library(workspace)}
        paths = [path for path in held if path in known]
        if not paths:
            raise told(StudioError("no adapter is chosen. Choose one first."))
        return paths, gr.Tabs(selected="compare")


def without(held: Picks, path: str) -> Picks:
    """The picks but for one."""
    return {other: strength for other, strength in held.items() if other != path}
