"""The History tab: all runs with settings, curves and images; for two, the differences."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from nora_studio.app.pages.history_view import curves_view, detail_view, list_view, trash_view
from nora_studio.app.pages.html_events import FORWARD_EVENTS, PRIVATE, error_toast, event_data
from nora_studio.app.pages.shared import SharedState, TabContext
from nora_studio.app.server.run_history import (
    delete_for_good,
    delete_runs,
    deleted_runs,
    restore_run,
    run_rows,
)
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace, check_name
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions, PartOptions
from nora_studio.options.options_page import helps, own_fields

PICK = """
element.addEventListener('click', (event) => {
  const row = event.target.closest('[data-act="pick"]');
  if (row) row.setAttribute('aria-pressed', row.getAttribute('aria-pressed') !== 'true');
});
"""
"""Marks the pressed row at once, so that it keeps the keyboard's focus."""


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    handlers = _Handlers(studio, _option_meanings())
    trash = gr.HTML("", elem_id="history-trash", js_on_load=FORWARD_EVENTS)
    runs = gr.HTML("", elem_id="history-runs", js_on_load=FORWARD_EVENTS + PICK)
    with gr.Row(elem_classes="bar"):
        reuse = gr.Button("Reuse settings", interactive=False, scale=0, min_width=190)
        compare = gr.Button("Compare", interactive=False, scale=0, min_width=120)
        delete = gr.Button("Delete", variant="stop", interactive=False, scale=0, min_width=110)
    curves = gr.HTML("", elem_id="history-curves")
    with gr.Row(elem_classes="bar quiet", elem_id="history-chart-acts"):
        log_scale = gr.Checkbox(False, label="Log scale", container=False, scale=0, min_width=130)
        smoothing = gr.Slider(0, 0.95, 0.6, step=0.05, label="Smoothing", scale=0, min_width=300)
    detail = gr.HTML("", elem_id="history-detail")
    picked, undoable, shown_state = gr.State([]), gr.State([]), gr.State({})
    inputs = [picked, undoable, log_scale, smoothing, shown_state]
    outputs = [trash, runs, curves, detail, reuse, compare, delete, picked, shown_state]
    gr.on(
        [*context.refresh_events, log_scale.change, smoothing.change],
        handlers.refresh,
        inputs,
        outputs,
        **PRIVATE,
    )
    for part in (runs, trash):
        part.select(handlers.on_press, [picked, undoable], [picked, undoable], **PRIVATE).then(
            handlers.refresh, inputs, outputs, **PRIVATE
        )
    delete.click(handlers.delete, picked, [picked, undoable], **PRIVATE).then(
        handlers.refresh, inputs, outputs, **PRIVATE
    )
    reuse.click(handlers.reuse, picked, [shared.settings, shared.tabs], **PRIVATE)
    compare.click(
        handlers.compare, picked, [shared.adapters, shared.strengths, shared.tabs], **PRIVATE
    )
    gr.api(handlers.delete_run, api_name="delete_run")
    gr.api(handlers.restore_run, api_name="restore_run")


@dataclass(frozen=True)
class _Handlers:
    """Handlers of the page's events."""

    studio: Studio
    meanings: Mapping[str, str]

    def refresh(
        self,
        picked,
        undoable,
        log_scale: bool,
        smoothing: float,
        previous: dict,
        request: gr.Request,
    ):
        workspace = self.studio.workspace(request.headers)
        every = {past.name: past for past in run_rows(workspace)}
        picked = [name for name in picked if name in every]
        chosen = [every[name].summary for name in picked]
        shown = [
            trash_view(deleted_runs(workspace), undoable),
            list_view(list(every.values()), picked, workspace),
            curves_view(chosen, log_scale, smoothing),
            detail_view(chosen, workspace, self.meanings) if every else "",
        ]
        # Unchanged parts are not sent again: nothing moves, and no button loses the focus.
        old = previous.get("views") or [None] * len(shown)
        parts = [gr.skip() if a == b else b for a, b in zip(old, shown, strict=True)]
        has_adapters = bool(chosen) and all(now.run.has_adapter for now in chosen)
        switches = [len(chosen) == 1, has_adapters, bool(chosen)]
        same = previous.get("switches") == switches
        buttons = [gr.skip() if same else gr.Button(interactive=on) for on in switches]
        return [*parts, *buttons, picked, {"views": shown, "switches": switches}]

    def on_press(
        self, picked: list[str], undoable: list[str], event: gr.EventData, request: gr.Request
    ):
        """Select or deselect a run, restore a deleted one, or empty the trash."""
        data, workspace = event_data(event), self.studio.workspace(request.headers)
        name = data.get("run", "")
        try:
            if data.get("act") == "pick":
                check_name(name)
                rest = [one for one in picked if one != name]
                return (rest if name in picked else [*rest[-1:], name]), undoable
            if data.get("act") == "restore":
                restore_run(workspace, name)
                return [name], [one for one in undoable if one != name]
            if data.get("act") == "empty":
                delete_for_good(workspace)
                return picked, []
        except StudioError as error:
            raise error_toast(error) from error
        return picked, undoable

    def delete(self, picked: list[str], request: gr.Request):
        """Delete the selected runs."""
        return [], self._delete(picked, request)

    def delete_run(self, run: str, request: gr.Request) -> list[str]:
        """Delete one of your runs; restore_run restores it."""
        return self._delete([run], request)

    def _delete(self, names: list[str], request: gr.Request) -> list[str]:
        try:
            workspace = self.studio.workspace(request.headers)
            in_use = {
                Path(choice.path).parts[1:2]
                for image_job in self.studio.image_queue.list(workspace)
                if image_job.is_under_way
                for column in image_job.request.columns
                for choice in column.adapters
            }
            for name in names:
                if (name,) in in_use:
                    raise StudioError(
                        f"{name} is generating images. Stop them first, under Compare."
                    )
            return delete_runs(workspace, self.studio.jobs, names)
        except StudioError as error:
            raise error_toast(error, "Not deleted") from error

    def restore_run(self, run: str, request: gr.Request) -> str:
        """Restore one of your deleted runs."""
        try:
            return restore_run(self.studio.workspace(request.headers), run).folder.name
        except StudioError as error:
            raise error_toast(error) from error

    def reuse(self, picked: list[str], request: gr.Request):
        """Load a run's settings into Train."""
        (name,) = self._names(picked[:1], self.studio.workspace(request.headers))
        return name, gr.Tabs(selected="train")

    def compare(self, picked: list[str], request: gr.Request):
        """Open the selected runs in Compare."""
        names = self._names(picked, self.studio.workspace(request.headers))
        return [f"runs/{name}" for name in names], [], gr.Tabs(selected="compare")

    def _names(self, picked: list[str], workspace: Workspace) -> list[str]:
        try:
            return [workspace.run(name).folder.name for name in picked]
        except StudioError as error:
            raise error_toast(error) from error


def _option_meanings() -> dict[str, str]:
    """Return the meaning of each of the trainer's options by its name."""
    groups = [kind for kind in DreamboothOptions.__mro__ if kind is not object]
    meanings: dict[str, str] = {}
    for kind in [*(group for group in groups if own_fields(group)), PartOptions]:
        meanings = helps(kind) | meanings
    return meanings
