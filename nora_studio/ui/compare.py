"""The Compare tab: adapters side by side from the same noise, in grids, in detail, and blind."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError
from nora_studio.studio.sheets import Sheet
from nora_studio.studio.studio import Studio
from nora_studio.studio.workspace import Workspace, check_name
from nora_studio.ui.acts import told
from nora_studio.ui.blind_panel import BlindPanel, pairs_of, wire_blind
from nora_studio.ui.comparison_form import QUIET, Form, fields_of, wire_form
from nora_studio.ui.comparison_request import request_of
from nora_studio.ui.comparison_view import sheet_view
from nora_studio.ui.shared import Shared

POLL_SECONDS = 1.0
OLDER_SHOWN = 30
DETAIL = Path(__file__).with_name("comparison.js")


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_classes="compare"):
        with gr.Column(scale=4, min_width=300, elem_classes="compare-form"):
            form = Form()
        with gr.Column(scale=9, min_width=320):
            result = _Result()
            blind = BlindPanel()
    shown, seen = gr.State(""), gr.State("")
    timer = gr.Timer(POLL_SECONDS, active=False)
    wire_form(studio, shared, tab, form)
    _wire_result(studio, tab, form, result, shown, seen, timer)
    wire_blind(studio, blind, result.whole, result.blind, shown)


class _Result:
    """What is drawn."""

    def __init__(self) -> None:
        with gr.Column() as self.whole:
            with gr.Row(elem_classes="bar"):
                self.older = gr.Dropdown(
                    [], label="Drawings", elem_id="compare-older", min_width=220, scale=3,
                    visible=False,
                )  # fmt: skip
                self.blind = gr.Button(
                    "Blind test", visible=False, scale=0, min_width=120, elem_id="compare-blind"
                )
                self.go_on = gr.Button("Go on", visible=False, scale=0, min_width=100)
                self.delete = gr.Button("Delete", visible=False, scale=0, min_width=100)
            self.sheet = gr.HTML(
                sheet_view(None, Workspace(Path())), js_on_load=DETAIL.read_text("utf-8"),
                elem_id="compare-sheet",
            )  # fmt: skip


def _wire_result(
    studio: Studio,
    tab: gr.Tab,
    form: Form,
    result: _Result,
    shown: gr.State,
    seen: gr.State,
    timer: gr.Timer,
) -> None:
    views = [result.sheet, result.blind, result.go_on, result.delete, form.stop, seen, timer]

    def look(name: str, before: str, request: gr.Request):
        """The drawing as it stands; what has not changed is not sent again."""
        workspace = studio.workspace(request.headers)
        sheet = _sheet_of(studio, workspace, name)
        after = repr(
            (name, sheet and (sheet.state, sheet.error, sheet.waits_for, len(sheet.files)))
        )
        if after == before:
            return [gr.skip()] * len(views)
        under_way = sheet is not None and sheet.is_under_way
        return [
            sheet_view(sheet, workspace),
            gr.Button(visible=sheet is not None and bool(pairs_of(sheet))),
            gr.Button(visible=sheet is not None and sheet.state in _UNFINISHED),
            gr.Button(visible=sheet is not None and not under_way),
            gr.Button(interactive=under_way),
            after,
            gr.Timer(active=under_way),
        ]

    def arrive(name: str, request: gr.Request):
        """The newest drawing, or the one that was chosen before."""
        sheets = studio.drawings.list(studio.workspace(request.headers))[:OLDER_SHOWN]
        names = [sheet.id for sheet in sheets]
        name = name if name in names else next(iter(names), "")
        return gr.Dropdown(_older(sheets), value=name or None, visible=bool(names)), name, ""

    def draw(request: gr.Request, *values: Any):
        """Draw what the fields ask for, and show it as it comes."""
        workspace = studio.workspace(request.headers)
        try:
            asked, view = request_of(fields_of(workspace, values))
            name = studio.drawings.submit(workspace, asked, view, studio.is_model_allowed)
        except StudioError as error:
            raise told(error, "This cannot be drawn") from error
        return arrive(name, request)

    def act(name: str, what: str, request: gr.Request) -> None:
        workspace = studio.workspace(request.headers)
        try:
            getattr(studio.drawings, what)(workspace, check_name(name))
        except StudioError as error:
            raise told(error) from error

    def stop(name: str, request: gr.Request) -> None:
        """End a drawing after the picture at work."""
        act(name, "cancel", request)

    def go_on(name: str, request: gr.Request) -> None:
        """Draw what is missing of a drawing."""
        act(name, "go_on", request)

    def delete(name: str, request: gr.Request):
        """Delete a drawing with its pictures."""
        act(name, "throw_away", request)
        return arrive("", request)

    arrived = [result.older, shown, seen]
    look_now = {"fn": look, "inputs": [shown, seen], "outputs": views, **QUIET}
    timer.tick(**look_now)
    tab.select(arrive, shown, arrived, **QUIET).then(**look_now)
    result.older.input(lambda name: (name, ""), result.older, [shown, seen], **QUIET).then(
        **look_now
    )
    form.draw.click(draw, form.fields, arrived, api_name="draw_comparison").then(**look_now)
    form.stop.click(stop, shown, None, api_name="stop_drawing")
    result.go_on.click(go_on, shown, None, api_name="go_on_drawing").then(**look_now)
    result.delete.click(delete, shown, arrived, api_name="delete_drawing").then(**look_now)


_UNFINISHED = ("cancelled", "failed", "interrupted")


def _sheet_of(studio: Studio, workspace: Workspace, name: str) -> Sheet | None:
    try:
        return studio.drawings.read(workspace, name) if name else None
    except StudioError:
        return None


def _older(sheets: Sequence[Sheet]) -> list[tuple[str, str]]:
    return [
        (
            f"{time.strftime('%d %b, %H:%M', time.localtime(sheet.created))} · "
            f"{sheet.request.prompts[0][:70]}",
            sheet.id,
        )
        for sheet in sheets
    ]
