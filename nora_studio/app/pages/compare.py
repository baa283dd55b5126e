"""The Compare tab: adapters side by side from the same noise, in grids, in detail, and blind."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.blind_panel import BlindPanel, pairs_of, wire_blind
from nora_studio.app.pages.blind_view import results_view
from nora_studio.app.pages.comparison_form import ComparisonForm, fields_of, wire_form
from nora_studio.app.pages.comparison_request import request_of
from nora_studio.app.pages.comparison_view import image_job_view
from nora_studio.app.pages.html_events import NO_SPINNER, PRIVATE, error_toast
from nora_studio.app.pages.shared import SharedState, TabContext
from nora_studio.app.server.blind_storage import find_tests
from nora_studio.app.server.image_jobs import ImageJob, restore_image_job
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError

POLL_SECONDS = 1.0
OLDER_SHOWN = 30
DETAIL = Path(__file__).with_name("comparison.js")


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    with gr.Row(elem_classes="compare"):
        with gr.Column(scale=4, min_width=300, elem_classes="compare-form"):
            form = ComparisonForm()
        with gr.Column(scale=9, min_width=320):
            result = _ResultPanel()
            blind = BlindPanel()
    shown, shown_state = gr.State(""), gr.State("")
    timer = gr.Timer(POLL_SECONDS, active=False)
    wire_form(studio, shared, context.tab, form)
    refresh = _wire_result(_Handlers(studio), context.tab, form, result, shown, shown_state, timer)
    left = wire_blind(studio, blind, result.whole, result.blind, shown)
    left.then(**refresh)


class _ResultPanel:
    """The components that show an image job."""

    def __init__(self) -> None:
        with gr.Column() as self.whole:
            with gr.Row(elem_classes="bar"):
                self.older = gr.Dropdown(
                    [], label="Comparisons", elem_id="compare-older", min_width=300, scale=3,
                    visible=False, allow_custom_value=True,  # A deleted one shows nothing.
                )  # fmt: skip
                self.blind = gr.Button(
                    "Blind test", visible=False, scale=0, min_width=120, elem_id="compare-blind"
                )
                self.resume = gr.Button("Resume", visible=False, scale=0, min_width=100)
                self.delete = gr.Button("Delete", visible=False, scale=0, min_width=100)
                self.undo = gr.Button(
                    "Undo delete", visible=False, scale=0, min_width=130, elem_id="compare-undo"
                )
            self.images = gr.HTML(
                image_job_view(None, Workspace(Path())), js_on_load=DETAIL.read_text("utf-8"),
                elem_id="compare-sheet",
            )  # fmt: skip


@dataclass(frozen=True)
class _Handlers:
    """Handlers of the buttons and the timer."""

    studio: Studio

    def refresh(self, name: str, before: str, request: gr.Request) -> list[Any]:
        """Show the image job's current state; unchanged parts are not sent again."""
        workspace = self.studio.workspace(request.headers)
        job = _image_job(self.studio, workspace, name)
        tested = "" if job is None else results_view(find_tests(workspace, job))
        facts = job and (
            job.state, job.error, job.waits_for, len(job.files), job.unscored,
        )  # fmt: skip
        after = repr((name, facts, tested))
        if after == before:
            return [gr.skip()] * 7
        under_way = job is not None and job.is_under_way
        return [
            image_job_view(job, workspace) + tested,
            gr.Button(visible=job is not None and bool(pairs_of(job))),
            gr.Button(visible=job is not None and job.state in _UNFINISHED),
            gr.Button(visible=job is not None and not under_way),
            gr.Button(interactive=under_way),
            after,
            gr.Timer(active=under_way),
        ]

    def load(self, name: str, request: gr.Request) -> list[Any]:
        """Show the image job chosen before, or the newest."""
        jobs = self.studio.image_queue.list(self.studio.workspace(request.headers))[:OLDER_SHOWN]
        names = [job.id for job in jobs]
        name = name if name in names else next(iter(names), "")
        return [gr.Dropdown(_job_choices(jobs), value=name or None, visible=bool(names)), name, ""]

    def generate(self, request: gr.Request, *values: Any) -> list[Any]:
        """Generate the images that the fields request, and show them as they arrive."""
        workspace = self.studio.workspace(request.headers)
        try:
            image_request, view = request_of(fields_of(workspace, values))
            name = self.studio.image_queue.submit(workspace, image_request, view)
        except StudioError as error:
            raise error_toast(error, "Images not generated") from error
        return self.load(name, request)

    def stop(self, name: str, request: gr.Request) -> None:
        """Stop an image job after its current image."""
        self._change(self.studio.image_queue.cancel, name, request)

    def resume(self, name: str, request: gr.Request) -> None:
        """Generate the missing images of an image job."""
        self._change(self.studio.image_queue.resume, name, request)

    def delete(self, name: str, request: gr.Request) -> list[Any]:
        """Delete an image job with its images; the last one can be restored."""
        self._change(self.studio.image_queue.delete, name, request)
        return [*self.load("", request), gr.Button(visible=True), name]

    def undo(self, name: str, request: gr.Request) -> list[Any]:
        """Restore the image job that was deleted last, and hide the button."""
        self._change(restore_image_job, name, request)
        return [*self.load(name, request), gr.Button(visible=False)]

    def _change(
        self, change: Callable[[Workspace, str], None], name: str, request: gr.Request
    ) -> None:
        try:
            change(self.studio.workspace(request.headers), check_name(name))
        except StudioError as error:
            raise error_toast(error) from error


def _wire_result(
    handlers: _Handlers,
    tab: gr.Tab,
    form: ComparisonForm,
    result: _ResultPanel,
    shown: gr.State,
    shown_state: gr.State,
    timer: gr.Timer,
) -> dict[str, Any]:
    """Connect the events of an image job; return the arguments of its refresh."""
    arrived = [result.older, shown, shown_state]
    views = [
        result.images,
        result.blind,
        result.resume,
        result.delete,
        form.stop,
        shown_state,
        timer,
    ]
    refresh: dict[str, Any] = {
        "fn": handlers.refresh,
        "inputs": [shown, shown_state],
        "outputs": views,
        **PRIVATE,
    }
    timer.tick(**refresh)
    tab.select(handlers.load, shown, arrived, **PRIVATE).then(**refresh)
    choose = result.older.input(
        lambda name: (name, ""), result.older, [shown, shown_state], **PRIVATE
    )
    choose.then(**refresh)
    form.generate.click(
        handlers.generate, form.fields, arrived, api_name="draw_comparison", **NO_SPINNER
    ).then(**refresh)
    form.stop.click(handlers.stop, shown, None, api_name="stop_drawing")
    result.resume.click(handlers.resume, shown, None, api_name="go_on_drawing", **NO_SPINNER).then(
        **refresh
    )
    deleted = gr.State("")
    result.delete.click(
        handlers.delete,
        shown,
        [*arrived, result.undo, deleted],
        api_name="delete_drawing",
        **NO_SPINNER,
    ).then(**refresh)
    result.undo.click(handlers.undo, deleted, [*arrived, result.undo], **PRIVATE).then(**refresh)
    return refresh


_UNFINISHED = ("cancelled", "failed", "interrupted")


def _image_job(studio: Studio, workspace: Workspace, name: str) -> ImageJob | None:
    try:
        return studio.image_queue.read(workspace, name) if name else None
    except StudioError:
        return None


def _job_choices(jobs: Sequence[ImageJob]) -> list[tuple[str, str]]:
    return [
        (
            f"{time.strftime('%d %b, %H:%M', time.localtime(job.created))} · "
            f"{job.request.prompts[0][:70]}",
            job.id,
        )
        for job in jobs
    ]
