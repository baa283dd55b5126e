"""The Adapters tab: the library of adapters, and actions that export, mix or publish them."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_actions import ActionForm, build_action_form
from nora_studio.app.pages.adapter_cards import PICK
from nora_studio.app.pages.adapter_command_events import CommandEvents
from nora_studio.app.pages.adapter_library import LibraryEvents
from nora_studio.app.pages.html_events import FORWARD_EVENTS, NO_SPINNER, PRIVATE
from nora_studio.app.pages.shared import SharedState, TabContext
from nora_studio.app.server.studio import Studio

HEADING = (
    '<h2>Your adapters</h2><p class="lead">Small files that teach a base model your subject. '
    "Choose some to export, mix or publish them.</p>"
)
SHEET = '<p class="note">Preview of its page on the Hub. Nothing has been published yet.</p>'


@dataclass(frozen=True)
class _Components:
    """The tab's components."""

    library: gr.HTML
    upload: gr.UploadButton
    undo: gr.Button
    sheet: gr.Column
    page: gr.Markdown
    chosen: gr.HTML
    compare: gr.Button
    form: ActionForm
    made: gr.HTML


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    parts, selection = _lay_out(), gr.State({})
    shown_state, removed = gr.State({}), gr.State("")
    library, command_events = LibraryEvents(studio), CommandEvents(studio, parts.form)
    current = [selection, parts.form.action]
    shown = [parts.library, parts.chosen, selection, parts.compare]

    parts.upload.upload(
        library.receive, [parts.upload, *current], shown, api_name="add_adapters", **NO_SPINNER
    )
    parts.undo.click(library.undo, [removed, *current], [*shown, parts.undo], **PRIVATE)
    parts.compare.click(library.to_compare, selection, [shared.adapters, shared.tabs], **PRIVATE)
    parts.form.action.change(library.load, current, shown, **PRIVATE)
    changes: list[Any] = [
        context.tab.select(library.load, current, shown, **PRIVATE),
        parts.library.select(library.on_press, current, [*shown, parts.undo, removed], **PRIVATE),
        parts.chosen.select(library.deselect, current, shown, **PRIVATE),
        parts.chosen.submit(library.set_strength, selection, selection, **PRIVATE),
    ]

    inputs, command = [selection, *parts.form.fields], [parts.form.command, parts.form.start]
    latest: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
    edits = [field.change for field in parts.form.fields]
    gr.on(edits, command_events.preview, inputs, command, **latest)
    for change in changes:
        change.then(command_events.preview, inputs, command, **latest)
    parts.form.start.click(command_events.start, inputs, None, api_visibility="private")
    parts.form.publish.click(
        command_events.publish,
        [parts.form.token, *inputs],
        parts.form.token,
        api_visibility="private",
        **NO_SPINNER,
    )
    gr.api(command_events.make, api_name="make_from_adapters")

    outputs = [parts.made, parts.library, parts.sheet, parts.page, shown_state]
    gr.on(
        context.refresh_events, command_events.refresh, [shown_state, selection], outputs, **PRIVATE
    )
    parts.made.select(command_events.on_press, None, None, **PRIVATE)


def _lay_out() -> _Components:
    """Lay out the library and, next to it, the chosen adapters, the form and the results."""
    with gr.Row():
        with gr.Column(scale=7, min_width=300):
            with gr.Row(elem_classes="bar"):
                gr.HTML(HEADING)
                undo = gr.Button("Undo removal", visible=False, scale=0, min_width=160)
                upload = gr.UploadButton(
                    "Add files", file_count="multiple", file_types=[".safetensors"], scale=0,
                    min_width=120, elem_id="adapters-upload",
                )  # fmt: skip
            library = gr.HTML("", js_on_load=FORWARD_EVENTS + PICK, elem_id="adapters-shelf")
            with gr.Column(visible=False, elem_classes=["card", "hub-page"]) as sheet:
                gr.HTML(SHEET)
                page = gr.Markdown("")
        with gr.Column(scale=4, min_width=320, elem_classes="bench"):
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Chosen</h2>")
                chosen = gr.HTML("", js_on_load=FORWARD_EVENTS, elem_id="adapters-chosen")
                compare = gr.Button(
                    "Open in Compare", interactive=False, elem_id="adapters-compare"
                )
                form = build_action_form()
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Results</h2>")
                made = gr.HTML("", js_on_load=FORWARD_EVENTS, elem_id="adapters-made")
    return _Components(library, upload, undo, sheet, page, chosen, compare, form, made)
