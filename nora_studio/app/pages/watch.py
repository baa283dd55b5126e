"""The Watch tab: the progress of one training."""

import shlex
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.html import METHOD_NAMES, STROKES, colour_of
from nora_studio.app.pages.html_events import PRIVATE, error_toast
from nora_studio.app.pages.line_chart import Colour, Series, line_chart
from nora_studio.app.pages.shared import SharedState, TabContext
from nora_studio.app.pages.training_view import (
    Logs,
    can_resume,
    log_view,
    progress_view,
    samples_view,
)
from nora_studio.app.server.limits import TRAINING_LIMITS
from nora_studio.app.server.resource_estimates import ResourceEstimateStore
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.training import PROGRAM, train_command
from nora_studio.app.server.trainings import Training, find_training, find_trainings, state_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.defaults import with_recommended
from nora_studio.options.options_file import parse_options
from nora_studio.runs.run_files import is_finite

MAX_STEPS = TRAINING_LIMITS["--steps"][True]
BUTTON: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 165}
OTHERS: tuple[Colour, ...] = ("ink", "soft", "accent", "base")
EMPTY = (
    '<div class="empty"><b>No training yet</b>Start one under Train; it appears here by itself, '
    "also after a reload or a restart.</div>"
)


@dataclass(frozen=True)
class _Page:
    """The tab's components."""

    chosen: gr.Dropdown
    stop: gr.Button
    resume: gr.Button
    longer: gr.Button
    more: gr.Number
    compare: gr.Button
    log: gr.Checkbox
    smoothing: gr.Slider
    views: list[gr.HTML]
    """Progress, samples, training loss, measured loss, log."""


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    with gr.Row(elem_classes="bar"):
        chosen = gr.Dropdown(
            [], label="Training", elem_id="watch-training", scale=1, min_width=220,
            allow_custom_value=True,
        )  # fmt: skip
        stop = gr.Button("Stop and save", interactive=False, **BUTTON)
        resume = gr.Button("Resume", interactive=False, **BUTTON)
        longer = gr.Button("Continue longer", interactive=False, **BUTTON)
        more = gr.Number(60, label="More steps", precision=0, minimum=1, scale=0, min_width=140)
        compare = gr.Button("Compare", variant="primary", interactive=False, **BUTTON)
    progress = gr.HTML(EMPTY, elem_id="watch-progress")
    with gr.Row():
        with gr.Column(scale=7, min_width=320):
            wall = gr.HTML("", elem_id="watch-wall")
        with gr.Column(scale=5, min_width=320, elem_classes="curves"):
            loss = gr.HTML("", elem_id="watch-loss")
            measured = gr.HTML("", elem_id="watch-measured")
            with gr.Row(elem_classes="bar quiet"):
                log = gr.Checkbox(False, label="Log scale", container=False, scale=0, min_width=130)
                smoothing = gr.Slider(
                    0, 0.95, 0.6, step=0.05, label="Smoothing", elem_id="watch-smoothing",
                    min_width=200,
                )  # fmt: skip
    with gr.Accordion("Log", open=False, elem_id="watch-log"):
        tail = gr.HTML("", autoscroll=True, max_height=260)
    views = [progress, wall, loss, measured, tail]
    page = _Page(chosen, stop, resume, longer, more, compare, log, smoothing, views)
    _wire_events(_Handlers(studio), page, shared, context)


def _wire_events(
    handlers: "_Handlers", page: _Page, shared: SharedState, context: TabContext
) -> None:
    """Connect the events of the tab's components."""
    shown_state = gr.State({})
    buttons = [page.stop, page.resume, page.longer, page.compare]
    triggers = [*context.refresh_events, page.chosen.input, page.log.change, page.smoothing.change]
    inputs = [page.chosen, page.log, page.smoothing, shown_state]
    gr.on(
        triggers,
        handlers.refresh,
        inputs,
        [page.chosen, *page.views, *buttons, shown_state],
        **PRIVATE,
    )
    shared.training.change(handlers.show, shared.training, [page.chosen, shown_state], **PRIVATE)
    page.stop.click(handlers.stop, page.chosen, None, api_name="stop_training")
    page.resume.click(handlers.resume, page.chosen, None, api_name="resume_training")
    page.longer.click(
        handlers.continue_longer, [page.chosen, page.more], None, api_name="continue_training"
    )
    handed = [shared.adapters, shared.tabs]
    page.compare.click(handlers.compare, page.chosen, handed, **PRIVATE)


class _Handlers:
    """Handlers of the tab's events."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def refresh(
        self, name: str, log: bool, smoothing: float, before: dict[str, Any], request: gr.Request
    ):
        """Show the training's state; unchanged parts are not sent again, so nothing moves."""
        workspace, jobs = self._studio.workspace(request.headers), self._studio.jobs
        trainings = {training.name: training for training in find_trainings(workspace, jobs)}
        name = name if name in trainings else next(iter(trainings), "")
        training = trainings.get(name)
        state = "" if training is None else state_of(training, jobs)
        shown = _views(self._studio, training, state, log, smoothing, workspace)
        after = {"names": list(trainings), "name": name, "state": state, "shown": shown}
        old = before.get("shown") or [None] * len(shown)
        parts = [gr.skip() if was == now else now for was, now in zip(old, shown, strict=True)]
        same = all(before.get(key) == after[key] for key in ("names", "name"))
        choice = gr.skip() if same else gr.Dropdown(list(trainings), value=name or None)
        if same and before.get("state") == state:
            return [choice, *parts, *[gr.skip()] * 4, after]
        runs = [] if training is None else training.runs.values()
        switches = [
            gr.Button(interactive=state in ("waiting", "running")),
            gr.Button(interactive=training is not None and can_resume(training, state)),
            gr.Button(interactive=state == "finished"),
            gr.Button(interactive=any(run.has_adapter for run in runs)),
        ]
        return [choice, *parts, *switches, after]

    def show(self, name: str):
        """Show a training that was just started."""
        return (gr.Dropdown(value=name), {}) if name else (gr.skip(), gr.skip())

    def stop(self, name: str, request: gr.Request) -> None:
        """Make a training save and stop; cancel it if it is waiting."""
        job = self._training(name, request).job
        if job is not None:
            self._studio.jobs.stop(job)
            gr.Info("It saves the current step, then stops.", title="Stopping")

    def resume(self, name: str, request: gr.Request) -> None:
        """Resume a stopped training from its last checkpoint."""
        self._submit(self._training(name, request), [], request)

    def continue_longer(self, name: str, steps: float, request: gr.Request) -> None:
        """Continue a finished training for more steps."""
        training = self._training(name, request)
        if not steps or not 1 <= steps <= MAX_STEPS:
            raise error_toast(StudioError(f"expected 1 to {MAX_STEPS:,} more steps; got {steps}."))
        planned = int(training.settings.get("steps", 0))
        self._submit(training, ["--steps", str(planned + int(steps))], request)

    def compare(self, name: str, request: gr.Request):
        """Open a training's adapters in Compare."""
        runs = self._training(name, request).runs.values()
        return [f"runs/{run.folder.name}" for run in runs], gr.Tabs(selected="compare")

    def _training(self, name: str, request: gr.Request) -> Training:
        workspace = self._studio.workspace(request.headers)
        try:
            return find_training(workspace, self._studio.jobs, name or "")
        except StudioError as error:
            raise error_toast(error) from error

    def _submit(self, training: Training, more: list[str], request: gr.Request) -> None:
        try:
            if training.first is None:
                raise StudioError(
                    f"the training {training.name} had not begun. Start it again under Train."
                )
            state = state_of(training, self._studio.jobs)
            if state == "failed" and not can_resume(training, state):
                raise StudioError(
                    f"the training {training.name} failed before anything was saved, and would "
                    "again. Change its settings (History, Reuse settings) and start it under Train."
                )
            workspace = self._studio.workspace(request.headers)
            for run in training.runs.values():
                # Refuses a run whose link leads out of the workspace.
                workspace.run(run.folder.name)
            config = f"runs/{training.first.folder.name}/config.toml"
            arguments = ["--config", config, *more, "--resume"]
            workspace = self._studio.workspace(request.headers)
            # Check it as it will run: with more steps, and on the current list of models.
            planned = ["--config", str(workspace.folder / config), *more]
            options = with_recommended(parse_options(planned))
            self._studio.check_training(options)
            self._studio.jobs.submit(
                workspace,
                "train",
                training.name,
                train_command(arguments),
                shlex.join([*PROGRAM, *arguments]),
                [run.folder.name for run in training.runs.values()],
                writes=ResourceEstimateStore(self._studio.auth.home).bytes_of(options),
            )
        except StudioError as error:
            raise error_toast(error) from error


def _views(
    studio: Studio,
    training: Training | None,
    state: str,
    log: bool,
    smoothing: float,
    workspace: Workspace,
) -> list[str]:
    """Return progress, samples, training loss, measured loss and log."""
    if training is None:
        return [EMPTY, "", "", "", ""]
    logs = {method: run.read_log() for method, run in training.runs.items()}
    held_out = any("held_out_loss" in row for rows in logs.values() for row in rows)
    measured = "held_out_loss" if held_out else "fixed_loss"
    title = "Loss on held-out photos" if held_out else "Loss at fixed noise"
    return [
        progress_view(training, state, studio.jobs, logs),
        samples_view(training, workspace, state),
        line_chart(_lines(logs, "loss"), title="Training loss", log=log, smoothing=smoothing),
        line_chart(_lines(logs, measured), title=title, log=log),
        log_view(training, studio.jobs),
    ]


def _lines(logs: Logs, name: str) -> list[Series]:
    """Return a line for one number of every run's log."""
    others = [method for method in logs if method not in METHOD_NAMES]
    return [
        Series(
            METHOD_NAMES.get(method, method),
            [(row["step"], row[name]) for row in rows if is_finite(row.get(name))],
            OTHERS[others.index(method) % len(OTHERS)] if method in others else colour_of(method),
            STROKES.get(method, "solid"),
        )
        for method, rows in logs.items()
        if name != "held_out_loss" or any(name in row for row in rows)
    ]
