"""The blind test on the Compare tab: its buttons, its keys, and what they do."""

from itertools import combinations
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError
from nora_studio.studio.blind import BlindTest, begin_test, find_tests, keep_test
from nora_studio.studio.sheets import Sheet
from nora_studio.studio.studio import Studio
from nora_studio.ui.acts import told
from nora_studio.ui.blind_view import blind_view, results_view
from nora_studio.ui.comparison_form import QUIET

KEYS = """
const press = {ArrowLeft: 'blind-left', ArrowRight: 'blind-right', ArrowDown: 'blind-tie',
  Backspace: 'blind-undo'};
document.addEventListener('keydown', (event) => {
  const busy = event.target.closest && event.target.closest('input, textarea, select, dialog');
  if (busy || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  const button = press[event.key] && document.getElementById(press[event.key]);
  if (button && button.offsetParent && !button.disabled) { button.click(); event.preventDefault(); }
});
"""


class BlindPanel:
    """Where a test takes the place of the drawing."""

    def __init__(self) -> None:
        """Lay it out, hidden."""
        with gr.Column(visible=False, elem_id="blind") as self.whole:
            self.view = gr.HTML("", js_on_load=KEYS, elem_id="blind-view")
            with gr.Row(elem_classes="blind-buttons") as self.choices:
                self.left = gr.Button("Left is better", elem_id="blind-left", min_width=110)
                self.tie = gr.Button("No difference", elem_id="blind-tie", min_width=110)
                self.right = gr.Button("Right is better", elem_id="blind-right", min_width=110)
            with gr.Row():
                self.undo = gr.Button("Undo", elem_id="blind-undo", scale=0, min_width=100)
                self.again = gr.Button("Test again", visible=False, scale=0, min_width=120)
                self.leave = gr.Button(
                    "Back to the pictures", elem_id="blind-leave", scale=0, min_width=170
                )
            self.hint = gr.HTML(
                '<p class="note">Keys: left, right, down for no difference, backspace to take the '
                "last answer back. Some pairs hold the base, to see how far the judge is to be "
                "trusted.</p>"
            )


def pairs_of(sheet: Sheet) -> list[tuple[str, str]]:
    """The columns that can be judged against each other: NoRA and LoRA before all others."""
    if sheet.view.get("layout") != "columns" or not sheet.files:
        return []
    labels = [column.label for column in sheet.request.columns if column.adapters]
    pairs = list(combinations(labels, 2))
    return sorted(pairs, key=lambda pair: not _are_twins(pair))


def _are_twins(pair: tuple[str, str]) -> bool:
    return {label.split(" ")[0] for label in pair} == {"NoRA", "LoRA"}


def wire_blind(
    studio: Studio, panel: BlindPanel, drawing: gr.Column, start: gr.Button, shown: gr.State
) -> None:
    """Begin, judge, take back and leave a test."""
    current = gr.State("")
    outputs = [
        panel.view, panel.choices, panel.undo, panel.again, panel.hint, panel.whole, drawing,
        current,
    ]  # fmt: skip

    def views(test: BlindTest, sheet: Sheet, request: gr.Request) -> list[Any]:
        over = test.is_over
        return [
            blind_view(test, sheet, studio.workspace(request.headers)),
            gr.Row(visible=not over),
            gr.Button(visible=not over, interactive=bool(test.answers)),
            gr.Button(visible=over),
            gr.HTML(visible=not over),
            gr.Column(visible=True),
            gr.Column(visible=False),
            test.id,
        ]

    def begin(name: str, request: gr.Request, anew: bool = False) -> list[Any]:
        """Begin a blind test of a drawing, or go on with the one that was begun."""
        workspace = studio.workspace(request.headers)
        try:
            sheet = studio.drawings.read(workspace, name)
            open_tests = [test for test in find_tests(workspace, sheet) if not test.is_over]
            pairs = pairs_of(sheet)
            if not pairs:
                raise StudioError("a blind test needs two adapters that were drawn side by side.")
            test = begin_test(workspace, sheet, *pairs[0]) if anew or not open_tests else None
        except StudioError as error:
            raise told(error) from error
        return views(test or open_tests[0], sheet, request)

    def begin_anew(name: str, request: gr.Request) -> list[Any]:
        return begin(name, request, anew=True)

    def found(name: str, test_id: str, request: gr.Request) -> tuple[BlindTest, Sheet]:
        workspace = studio.workspace(request.headers)
        sheet = studio.drawings.read(workspace, name)
        for test in find_tests(workspace, sheet):
            if test.id == test_id:
                return test, sheet
        raise StudioError("there is no such test here. It may have been deleted.")

    def change(name: str, test_id: str, what: str, request: gr.Request) -> list[Any]:
        try:
            test, sheet = found(name, test_id, request)
            test = test.undo() if what == "undo" else test.answer(what)
            keep_test(studio.workspace(request.headers), test)
        except StudioError as error:
            raise told(error) from error
        return views(test, sheet, request)

    def left(name: str, test: str, request: gr.Request) -> list[Any]:
        return change(name, test, "left", request)

    def right(name: str, test: str, request: gr.Request) -> list[Any]:
        return change(name, test, "right", request)

    def tie(name: str, test: str, request: gr.Request) -> list[Any]:
        return change(name, test, "tie", request)

    def undo(name: str, test: str, request: gr.Request) -> list[Any]:
        return change(name, test, "undo", request)

    def leave() -> list[Any]:
        return [gr.Column(visible=False), gr.Column(visible=True), ""]

    start.click(begin, shown, outputs, api_visibility="private", show_progress="hidden")
    panel.again.click(begin_anew, shown, outputs, api_visibility="private", show_progress="hidden")
    for button, act in (
        (panel.left, left), (panel.right, right), (panel.tie, tie), (panel.undo, undo),
    ):  # fmt: skip
        button.click(act, [shown, current], outputs, **QUIET)
    panel.leave.click(leave, None, [panel.whole, drawing, current], **QUIET)


__all__ = ["BlindPanel", "pairs_of", "results_view", "wire_blind"]
