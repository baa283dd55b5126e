"""The Watch tab: one training as it goes, whoever looks and however often."""

import shlex
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError
from nora_studio.scripts import TRAIN, script_command
from nora_studio.studio.studio import Studio
from nora_studio.studio.trainings import Training, find_training, find_trainings, state_of
from nora_studio.ui.acts import told
from nora_studio.ui.line_chart import Series, line_chart
from nora_studio.ui.shared import Shared
from nora_studio.ui.training_view import log_view, progress_view, wall_view

POLL_SECONDS = 1.5
BUTTON: dict[str, Any] = {"size": "md", "scale": 0, "min_width": 150}
COLOURS = {"nora": "nora", "lora": "lora"}
OTHERS = ("ink", "soft", "accent", "base")
EMPTY = (
    '<div class="empty"><b>No training yet</b>Begin one under Train; it shows up here by itself, '
    "also after a reload or a restart.</div>"
)


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_classes="bar"):
        chosen = gr.Dropdown(
            [], label="Training", elem_id="watch-training", scale=1, min_width=220,
            allow_custom_value=True,
        )  # fmt: skip
        stop = gr.Button("Stop and save", interactive=False, **BUTTON)
        resume = gr.Button("Resume", interactive=False, **BUTTON)
        longer = gr.Button("Continue longer", interactive=False, **BUTTON)
        more = gr.Number(60, label="by steps", precision=0, minimum=1, scale=0, min_width=100)
        compare = gr.Button("Compare", variant="primary", interactive=False, **BUTTON)
    progress = gr.HTML(EMPTY, elem_id="watch-progress")
    wall = gr.HTML("", elem_id="watch-wall")
    with gr.Row(elem_classes="bar quiet"):
        log = gr.Checkbox(False, label="Log scale", container=False, scale=0, min_width=130)
        smoothing = gr.Slider(
            0, 0.95, 0.6, step=0.05, label="Smoothing", elem_id="watch-smoothing", scale=0,
            min_width=280, container=False,
        )  # fmt: skip
    with gr.Row():
        curves = gr.HTML("", elem_id="watch-loss")
        fixed = gr.HTML("", elem_id="watch-fixed")
    with gr.Accordion("Log", open=False, elem_id="watch-log"):
        tail = gr.HTML("", autoscroll=True, max_height=260)
    seen = gr.State({})
    timer = gr.Timer(POLL_SECONDS)
    views = [progress, wall, curves, fixed, tail]
    buttons = [stop, resume, longer, compare]

    def look(name: str, is_log: bool, smooth: float, before: dict, request: gr.Request):
        workspace = studio.workspace(request.headers)
        trainings = find_trainings(workspace, studio.jobs)
        names = [training.name for training in trainings]
        name = name if name in names else next(iter(names), "")
        training = next((one for one in trainings if one.name == name), None)
        shown = _views(studio, training, is_log, smooth, workspace)
        # What has not changed is not sent again: nothing on the page moves or loses the pointer.
        after = {str(number): value for number, value in enumerate(shown)} | {"names": names}
        parts = [
            gr.skip() if before.get(str(number)) == value else value
            for number, value in enumerate(shown)
        ]
        state = "" if training is None else state_of(training, studio.jobs)
        same = before.get("names") == names and before.get("name") == name
        after |= {"name": name, "state": state}
        choice = gr.skip() if same else gr.Dropdown(names, value=name or None)
        switches = (
            [gr.skip()] * 4
            if same and before.get("state") == state
            else [
                gr.Button(interactive=state in ("waiting", "running")),
                gr.Button(interactive=state in ("stopped", "interrupted", "failed")),
                gr.Button(interactive=state == "finished"),
                gr.Button(interactive=_is_comparable(training)),
            ]
        )
        return [choice, *parts, *switches, after]

    outputs = [chosen, *views, *buttons, seen]
    inputs = [chosen, log, smoothing, seen]
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    gr.on(
        [timer.tick, tab.select, chosen.input, log.change, smoothing.change],
        look, inputs, outputs, **quiet,
    )  # fmt: skip

    def show_new(name: str):
        return (gr.Dropdown(value=name), {}) if name else (gr.skip(), gr.skip())

    shared.training.change(show_new, shared.training, [chosen, seen], **quiet)

    def halt(name: str, request: gr.Request) -> None:
        """Ask a training to save and stop; one that waits leaves the queue."""
        with_job = _training(studio, name, request).job
        if with_job is not None:
            studio.jobs.stop(with_job)
            gr.Info("It saves the step it is at, then stops.", title="Stopping")

    def go_on(name: str, request: gr.Request) -> None:
        """Go on with a stopped training from its last checkpoint."""
        _submit(studio, _training(studio, name, request), [], request)

    def continue_longer(name: str, steps: float, request: gr.Request) -> None:
        """Train a finished one for more steps."""
        training = _training(studio, name, request)
        planned = int(training.settings.get("steps", 0))
        if not 1 <= steps <= 100_000:
            raise told(StudioError(f"expected 1 to 100,000 more steps; got {steps}."))
        _submit(studio, training, ["--steps", str(planned + int(steps))], request)

    def to_compare(name: str, request: gr.Request):
        training = _training(studio, name, request)
        paths = [f"runs/{run.folder.name}" for run in training.runs.values()]
        return paths, gr.Tabs(selected="compare")

    stop.click(halt, chosen, None, api_name="stop_training")
    resume.click(go_on, chosen, None, api_name="resume_training")
    longer.click(continue_longer, [chosen, more], None, api_name="continue_training")
    compare.click(to_compare, chosen, [shared.adapters, shared.tabs], api_visibility="private")


def _training(studio: Studio, name: str, request: gr.Request) -> Training:
    try:
        return find_training(studio.workspace(request.headers), studio.jobs, name or "")
    except StudioError as error:
        raise told(error) from error


def _submit(studio: Studio, training: Training, more: list[str], request: gr.Request) -> None:
    try:
        run = training.first
        if run is None:
            raise StudioError(f"{training.name} had not begun; start it again under Train.")
        arguments = ["--config", f"runs/{run.folder.name}/config.toml", *more, "--resume"]
        studio.jobs.submit(
            studio.workspace(request.headers),
            "train",
            training.name,
            script_command(TRAIN, arguments),
            shlex.join(["nora-studio", "train", *arguments]),
            [one.folder.name for one in training.runs.values()],
        )
    except StudioError as error:
        raise told(error) from error


def _is_comparable(training: Training | None) -> bool:
    if training is None:
        return False
    return any(run.adapter.is_dir() or run.checkpoints() for run in training.runs.values())


def _views(studio: Studio, training: Training | None, log: bool, smooth: float, workspace):
    if training is None:
        return [EMPTY, "", "", "", ""]
    logs = {method: run.read_log() for method, run in training.runs.items()}
    rest = iter(OTHERS)
    colours = {method: COLOURS.get(method) or next(rest, "ink") for method in logs}
    lines = {
        name: [
            Series(
                f"{_called(method)}{words}",
                [(row["step"], row[name]) for row in rows if name in row],
                colours[method],
                "dashed" if method == "lora" else "solid",
            )
            for method, rows in logs.items()
            if any(name in row for row in rows) or name != "held_out_loss"
        ]
        for name, words in (("loss", ""), ("fixed_loss", ""), ("held_out_loss", ""))
    }
    held_out = any(series.points for series in lines["held_out_loss"])
    judged = "held_out_loss" if held_out else "fixed_loss"
    title = "Loss on a photo held out" if held_out else "Loss at fixed noise"
    return [
        progress_view(training, state_of(training, studio.jobs), studio.jobs),
        wall_view(training, workspace),
        line_chart(lines["loss"], title="Training loss", log=log, smoothing=smooth),
        line_chart(lines[judged], title=title, log=log, smoothing=0),
        log_view(training, studio.jobs),
    ]


def _called(method: str) -> str:
    return {"lora": "LoRA", "nora": "NoRA"}.get(method, method)
