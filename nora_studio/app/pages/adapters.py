"""The Adapters tab: a shelf of all adapters, and a bench to turn them into what others need."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.adapter_bench import Bench, build_bench
from nora_studio.app.pages.adapter_cards import PICK
from nora_studio.app.pages.adapter_orders import Orders
from nora_studio.app.pages.adapter_shelf import Shelf
from nora_studio.app.pages.html_events import HIDDEN, ON_LOAD, QUIET
from nora_studio.app.pages.shared import Place, Shared
from nora_studio.app.server.studio import Studio

HEADING = (
    '<h2>Your adapters</h2><p class="lead">Small files that teach a base model your subject. '
    "Choose some to export, mix or publish them.</p>"
)
SHEET = '<p class="note">The page it would get on the Hub. Nothing has been sent.</p>'


@dataclass(frozen=True)
class _Parts:
    """The tab's components."""

    shelf: gr.HTML
    upload: gr.UploadButton
    undo: gr.Button
    sheet: gr.Column
    page: gr.Markdown
    chosen: gr.HTML
    compare: gr.Button
    bench: Bench
    made: gr.HTML


def build(studio: Studio, shared: Shared, place: Place) -> None:
    """Lay out the tab and wire it."""
    parts, picks = _lay_out(), gr.State({})
    seen, removed = gr.State({}), gr.State("")
    shelf, orders = Shelf(studio), Orders(studio, parts.bench)
    held = [picks, parts.bench.action]
    shown = [parts.shelf, parts.chosen, picks, parts.compare]

    parts.upload.upload(
        shelf.receive, [parts.upload, *held], shown, api_name="add_adapters", **HIDDEN
    )
    parts.undo.click(shelf.undo, [removed, *held], [*shown, parts.undo], **QUIET)
    parts.compare.click(shelf.to_compare, picks, [shared.adapters, shared.tabs], **QUIET)
    parts.bench.action.change(shelf.arrive, held, shown, **QUIET)
    changes: list[Any] = [
        place.tab.select(shelf.arrive, held, shown, **QUIET),
        parts.shelf.select(shelf.press, held, [*shown, parts.undo, removed], **QUIET),
        parts.chosen.select(shelf.drop, held, shown, **QUIET),
        parts.chosen.submit(shelf.weigh, picks, picks, **QUIET),
    ]

    asked, command = [picks, *parts.bench.fields], [parts.bench.command, parts.bench.start]
    latest: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
    gr.on([field.change for field in parts.bench.fields], orders.preview, asked, command, **latest)
    for change in changes:
        change.then(orders.preview, asked, command, **latest)
    parts.bench.start.click(orders.start, asked, None, api_visibility="private")
    parts.bench.publish.click(
        orders.publish,
        [parts.bench.token, *asked],
        parts.bench.token,
        api_visibility="private",
        **HIDDEN,
    )
    gr.api(orders.make, api_name="make_from_adapters")

    looked_at = [parts.made, parts.shelf, parts.sheet, parts.page, seen]
    gr.on(place.looks, orders.look, [seen, picks], looked_at, **QUIET)
    parts.made.select(orders.press, None, None, **QUIET)


def _lay_out() -> _Parts:
    """The shelf, and beside it what is chosen, the bench, and what was made."""
    with gr.Row():
        with gr.Column(scale=7, min_width=300):
            with gr.Row(elem_classes="bar"):
                gr.HTML(HEADING)
                undo = gr.Button("Undo removal", visible=False, scale=0, min_width=160)
                upload = gr.UploadButton(
                    "Add files", file_count="multiple", file_types=[".safetensors"], scale=0,
                    min_width=120, elem_id="adapters-upload",
                )  # fmt: skip
            shelf = gr.HTML("", js_on_load=ON_LOAD + PICK, elem_id="adapters-shelf")
            with gr.Column(visible=False, elem_classes=["card", "hub-page"]) as sheet:
                gr.HTML(SHEET)
                page = gr.Markdown("")
        with gr.Column(scale=4, min_width=320, elem_classes="bench"):
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Chosen</h2>")
                chosen = gr.HTML("", js_on_load=ON_LOAD, elem_id="adapters-chosen")
                compare = gr.Button(
                    "Draw them under Compare", interactive=False, elem_id="adapters-compare"
                )
                bench = build_bench()
            with gr.Column(elem_classes="card"):
                gr.HTML("<h2>Made</h2>")
                made = gr.HTML("", js_on_load=ON_LOAD, elem_id="adapters-made")
    return _Parts(shelf, upload, undo, sheet, page, chosen, compare, bench, made)
