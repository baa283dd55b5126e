"""The blind test on the Compare tab: its buttons, keys and event handlers."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import gradio as gr

from nora_studio.app.pages.blind_view import blind_view
from nora_studio.app.pages.comparison_form import PRIVATE
from nora_studio.app.pages.html_events import error_toast
from nora_studio.app.server.blind_storage import create_test, find_tests, save_test
from nora_studio.app.server.blind_test import BlindTest
from nora_studio.app.server.image_jobs import ImageJob
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

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
    """The components shown in place of the images during a test."""

    def __init__(self) -> None:
        """Lay out the panel, hidden."""
        with gr.Column(visible=False, elem_id="blind") as self.whole:
            self.view = gr.HTML("", js_on_load=KEYS, elem_id="blind-view")
            with gr.Row(elem_classes="blind-buttons") as self.choices:
                self.left = gr.Button("Left is better", elem_id="blind-left", min_width=110)
                self.tie = gr.Button("No difference", elem_id="blind-tie", min_width=110)
                self.right = gr.Button("Right is better", elem_id="blind-right", min_width=110)
            with gr.Row():
                self.undo = gr.Button("Undo", elem_id="blind-undo", scale=0, min_width=100)
                self.again = gr.Button("Test again", visible=False, scale=0, min_width=140)
                self.leave = gr.Button(
                    "Back to the images", elem_id="blind-leave", scale=0, min_width=220
                )
            self.hint = gr.HTML(
                '<p class="note">Keys: left, right, down for no difference, backspace to undo the '
                "last answer. Some pairs contain the base, to check how reliable the judgement "
                "is.</p>"
            )


def pairs_of(image_job: ImageJob) -> list[tuple[str, str]]:
    """Return the pairs of columns that can be judged against each other, NoRA and LoRA first."""
    if image_job.view.get("layout") != "columns" or not image_job.files:
        return []
    labels = [column.label for column in image_job.request.columns if column.adapters]
    pairs = list(combinations(labels, 2))
    return sorted(pairs, key=lambda pair: not _are_twins(pair))


def _are_twins(pair: tuple[str, str]) -> bool:
    return {label.split(" ")[0] for label in pair} == {"NoRA", "LoRA"}


@dataclass(frozen=True)
class _Handlers:
    """Handlers of the buttons."""

    studio: Studio

    def begin(self, name: str, request: gr.Request) -> list[Any]:
        """Begin a blind test of an image job, or continue the unfinished one."""
        return self._begin(name, request, start_new=False)

    def begin_another(self, name: str, request: gr.Request) -> list[Any]:
        """Begin another test of the same image job."""
        return self._begin(name, request, start_new=True)

    def left(self, name: str, test: str, request: gr.Request) -> list[Any]:
        """Record that the left image is better."""
        return self._change(name, test, request, lambda one: one.answer("left"))

    def right(self, name: str, test: str, request: gr.Request) -> list[Any]:
        """Record that the right image is better."""
        return self._change(name, test, request, lambda one: one.answer("right"))

    def tie(self, name: str, test: str, request: gr.Request) -> list[Any]:
        """Record that there is no difference."""
        return self._change(name, test, request, lambda one: one.answer("tie"))

    def undo(self, name: str, test: str, request: gr.Request) -> list[Any]:
        """Undo the last answer."""
        return self._change(name, test, request, BlindTest.undo)

    def leave(self) -> list[Any]:
        """Return to the images; the answers are kept."""
        return [gr.Column(visible=False), gr.Column(visible=True), ""]

    def _begin(self, job_id: str, request: gr.Request, start_new: bool) -> list[Any]:
        workspace = self.studio.workspace(request.headers)
        try:
            image_job = self.studio.image_queue.read(workspace, job_id)
            begun = [test for test in find_tests(workspace, image_job) if not test.is_over]
            pairs = pairs_of(image_job)
            if not pairs:
                raise StudioError(
                    "a blind test needs two adapters side by side. Choose two and press "
                    "Generate first."
                )
            test = (
                create_test(workspace, image_job, *pairs[0]) if start_new or not begun else begun[0]
            )
        except StudioError as error:
            raise error_toast(error) from error
        return self._views(test, image_job, workspace)

    def _change(
        self,
        name: str,
        test_id: str,
        request: gr.Request,
        change: Callable[[BlindTest], BlindTest],
    ) -> list[Any]:
        workspace = self.studio.workspace(request.headers)
        try:
            image_job = self.studio.image_queue.read(workspace, name)
            tests = {test.id: test for test in find_tests(workspace, image_job)}
            if test_id not in tests:
                raise StudioError("this blind test does not exist. It may have been deleted.")
            test = change(tests[test_id])
            save_test(workspace, test)
        except StudioError as error:
            raise error_toast(error) from error
        return self._views(test, image_job, workspace)

    def _views(self, test: BlindTest, image_job: ImageJob, workspace: Workspace) -> list[Any]:
        over = test.is_over
        return [
            blind_view(test, image_job, workspace),
            gr.Row(visible=not over),
            gr.Button(visible=not over, interactive=bool(test.answers)),
            gr.Button(visible=over),
            gr.HTML(visible=not over),
            gr.Column(visible=True),
            gr.Column(visible=False),
            test.id,
        ]


def wire_blind(
    studio: Studio, panel: BlindPanel, images: gr.Column, start: gr.Button, shown: gr.State
) -> Any:
    """Connect the panel's events.

    Args:
        images: The column that is hidden during a test.
        start: The button that begins a test of the job whose id is in `shown`.

    Returns:
        The event of leaving the test.
    """
    handlers, test = _Handlers(studio), gr.State("")
    outputs = [
        panel.view, panel.choices, panel.undo, panel.again, panel.hint, panel.whole, images, test,
    ]  # fmt: skip
    start.click(handlers.begin, shown, outputs, **PRIVATE)
    panel.again.click(handlers.begin_another, shown, outputs, **PRIVATE)
    for button, act in (
        (panel.left, handlers.left),
        (panel.right, handlers.right),
        (panel.tie, handlers.tie),
        (panel.undo, handlers.undo),
    ):
        button.click(act, [shown, test], outputs, **PRIVATE)
    return panel.leave.click(handlers.leave, None, [panel.whole, images, test], **PRIVATE)
