"""The Compare tab: adapters side by side from the same noise, in grids, in detail, and blind."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.blind_panel import BlindPanel, pairs_of, wire_blind
from nora_studio.app.pages.blind_view import results_view
from nora_studio.app.pages.comparison_form import Form, fields_of, wire_form
from nora_studio.app.pages.comparison_request import request_of
from nora_studio.app.pages.comparison_view import sheet_view
from nora_studio.app.pages.html_events import HIDDEN, QUIET, told
from nora_studio.app.pages.shared import Place, Shared
from nora_studio.app.server.blind import find_tests
from nora_studio.app.server.image_jobs import Sheet, restore_sheet
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError

POLL_SECONDS = 1.0
OLDER_SHOWN = 30
DETAIL = Path(__file__).with_name("comparison.js")


def build(studio: Studio, shared: Shared, place: Place) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_classes="compare"):
        with gr.Column(scale=4, min_width=300, elem_classes="compare-form"):
            form = Form()
        with gr.Column(scale=9, min_width=320):
            result = _Result()
            blind = BlindPanel()
    shown, seen = gr.State(""), gr.State("")
    timer = gr.Timer(POLL_SECONDS, active=False)
    wire_form(studio, shared, place.tab, form)
    look = _wire_result(_Drawings(studio), place.tab, form, result, shown, seen, timer)
    left = wire_blind(studio, blind, result.whole, result.blind, shown)
    left.then(**look)


class _Result:
    """What is drawn."""

    def __init__(self) -> None:
        with gr.Column() as self.whole:
            with gr.Row(elem_classes="bar"):
                self.older = gr.Dropdown(
                    [], label="Drawings", elem_id="compare-older", min_width=300, scale=3,
                    visible=False, allow_custom_value=True,  # One that is gone shows nothing.
                )  # fmt: skip
                self.blind = gr.Button(
                    "Blind test", visible=False, scale=0, min_width=120, elem_id="compare-blind"
                )
                self.go_on = gr.Button("Go on", visible=False, scale=0, min_width=100)
                self.delete = gr.Button("Delete", visible=False, scale=0, min_width=100)
                self.undo = gr.Button(
                    "Undo delete", visible=False, scale=0, min_width=130, elem_id="compare-undo"
                )
            self.sheet = gr.HTML(
                sheet_view(None, Workspace(Path())), js_on_load=DETAIL.read_text("utf-8"),
                elem_id="compare-sheet",
            )  # fmt: skip


@dataclass(frozen=True)
class _Drawings:
    """What the buttons and the clock do."""

    studio: Studio

    def look(self, name: str, before: str, request: gr.Request) -> list[Any]:
        """The drawing as it stands; what has not changed is not sent again."""
        workspace = self.studio.workspace(request.headers)
        sheet = _sheet_of(self.studio, workspace, name)
        tested = "" if sheet is None else results_view(find_tests(workspace, sheet))
        facts = sheet and (
            sheet.state, sheet.error, sheet.waits_for, len(sheet.files), sheet.unscored,
        )  # fmt: skip
        after = repr((name, facts, tested))
        if after == before:
            return [gr.skip()] * 7
        under_way = sheet is not None and sheet.is_under_way
        return [
            sheet_view(sheet, workspace) + tested,
            gr.Button(visible=sheet is not None and bool(pairs_of(sheet))),
            gr.Button(visible=sheet is not None and sheet.state in _UNFINISHED),
            gr.Button(visible=sheet is not None and not under_way),
            gr.Button(interactive=under_way),
            after,
            gr.Timer(active=under_way),
        ]

    def arrive(self, name: str, request: gr.Request) -> list[Any]:
        """The drawing that was chosen before, or else the newest."""
        sheets = self.studio.drawings.list(self.studio.workspace(request.headers))[:OLDER_SHOWN]
        names = [sheet.id for sheet in sheets]
        name = name if name in names else next(iter(names), "")
        return [gr.Dropdown(_older(sheets), value=name or None, visible=bool(names)), name, ""]

    def draw(self, request: gr.Request, *values: Any) -> list[Any]:
        """Draw what the fields ask for, and show it as it comes."""
        workspace = self.studio.workspace(request.headers)
        try:
            asked, view = request_of(fields_of(workspace, values))
            name = self.studio.drawings.submit(workspace, asked, view)
        except StudioError as error:
            raise told(error, "This cannot be drawn") from error
        return self.arrive(name, request)

    def stop(self, name: str, request: gr.Request) -> None:
        """End a drawing after the picture at work."""
        self._change(self.studio.drawings.cancel, name, request)

    def go_on(self, name: str, request: gr.Request) -> None:
        """Draw what is missing of a drawing."""
        self._change(self.studio.drawings.go_on, name, request)

    def delete(self, name: str, request: gr.Request) -> list[Any]:
        """Delete a drawing with its pictures; the last one can be brought back."""
        self._change(self.studio.drawings.throw_away, name, request)
        return [*self.arrive("", request), gr.Button(visible=True), name]

    def undo(self, name: str, request: gr.Request) -> list[Any]:
        """Bring back the drawing that was deleted last; the button goes."""
        self._change(restore_sheet, name, request)
        return [*self.arrive(name, request), gr.Button(visible=False)]

    def _change(
        self, change: Callable[[Workspace, str], None], name: str, request: gr.Request
    ) -> None:
        try:
            change(self.studio.workspace(request.headers), check_name(name))
        except StudioError as error:
            raise told(error) from error


def _wire_result(
    acts: _Drawings,
    tab: gr.Tab,
    form: Form,
    result: _Result,
    shown: gr.State,
    seen: gr.State,
    timer: gr.Timer,
) -> dict[str, Any]:
    """Give back how one looks again."""
    arrived = [result.older, shown, seen]
    views = [result.sheet, result.blind, result.go_on, result.delete, form.stop, seen, timer]
    look: dict[str, Any] = {"fn": acts.look, "inputs": [shown, seen], "outputs": views, **QUIET}
    timer.tick(**look)
    tab.select(acts.arrive, shown, arrived, **QUIET).then(**look)
    choose = result.older.input(lambda name: (name, ""), result.older, [shown, seen], **QUIET)
    choose.then(**look)
    form.draw.click(acts.draw, form.fields, arrived, api_name="draw_comparison", **HIDDEN).then(
        **look
    )
    form.stop.click(acts.stop, shown, None, api_name="stop_drawing")
    result.go_on.click(acts.go_on, shown, None, api_name="go_on_drawing", **HIDDEN).then(**look)
    deleted = gr.State("")
    result.delete.click(
        acts.delete, shown, [*arrived, result.undo, deleted], api_name="delete_drawing", **HIDDEN
    ).then(**look)
    result.undo.click(acts.undo, deleted, [*arrived, result.undo], **QUIET).then(**look)
    return look


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
