"""The Train tab: the subject's name and photos, and the command that trains on them."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.advanced import OptionField, build_fields
from nora_studio.app.pages.html_events import NO_SPINNER, PRIVATE, error_toast
from nora_studio.app.pages.photo_messages import messages_view
from nora_studio.app.pages.photo_rows import resolution_of
from nora_studio.app.pages.shared import SharedState, TabContext
from nora_studio.app.pages.start_requirements import (
    ADD_PHOTOS,
    missing_requirements,
    requirements_view,
)
from nora_studio.app.pages.token_doctor import build_token_doctor
from nora_studio.app.pages.train_form import (
    DEFAULTS,
    FIELD_NAMES,
    TrainForm,
    build_form,
    request_of,
)
from nora_studio.app.pages.train_photos import Photos, build_photos, show_photos, wire_photos
from nora_studio.app.server.drafts import (
    DRAFT,
    arguments_of_run,
    check_draft_photos,
    free_name,
    load_form,
    save_form,
    submit_training,
    uses_draft_photos,
)
from nora_studio.app.server.resource_estimates import ResourceEstimateStore
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.training import (
    check_arguments,
    parse_shown_command,
    recommended_steps,
    shown_command,
    train_arguments,
)
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.options.config import DreamboothOptions

# Runs in the browser, which knows the command as it is now, not as it was when the form sent it.
TAKE_UNLESS_WRITTEN = """(proposed, generated, shown) =>
  shown && shown !== generated ? [shown, generated] : [proposed, proposed]"""
CARD: dict[str, Any] = {"min_width": 320, "elem_classes": "card"}


@dataclass(frozen=True)
class _Page:
    """The tab's components beyond those of steps 1 and 2."""

    form: TrainForm
    photos: Photos
    requirements: gr.HTML
    start: gr.Button
    measure: gr.Button
    command: gr.Textbox
    back: gr.Button
    fields: list[OptionField]
    proposed: gr.Textbox
    """The command that the form describes now."""
    lack: gr.State
    """Why the form gives no command; empty if it gives one."""
    generated: gr.Textbox
    """The proposed command that was taken over last. Any other command was edited by the visitor,
    and the form does not change it."""


def build(studio: Studio, shared: SharedState, context: TabContext) -> None:
    """Lay out the tab and connect its events."""
    with gr.Row(elem_classes="steps"):
        with gr.Column(scale=4, **CARD):
            gr.HTML(_step_heading(1, "Name it"))
            form = build_form()
        with gr.Column(scale=5, **CARD):
            gr.HTML(_step_heading(2, "Show it"))
            photos = build_photos()
        with gr.Column(scale=4, **CARD):
            gr.HTML(_step_heading(3, "Start"))
            requirements = gr.HTML("", elem_id="train-need")
            start = gr.Button("Start training", variant="primary", elem_id="train-start")
            measure = gr.Button("Measure time and memory first", elem_id="train-measure")
            command = gr.Textbox(
                "", label="The command it runs", lines=9, max_lines=30, buttons=["copy"],
                elem_id="train-command", elem_classes="mono",
                info="It does the same in a terminal. You can edit it.",
            )  # fmt: skip
            back = gr.Button("Back to the form's command", visible=False, size="sm")
    with gr.Accordion("Advanced: every option of the trainer", open=False, elem_id="advanced"):
        fields = build_fields()
    build_token_doctor(studio, form)
    proposed, generated = gr.Textbox(visible=False), gr.Textbox(visible=False)
    lack = gr.State("")
    page = _Page(
        form, photos, requirements, start, measure, command, back, fields, proposed, lack, generated
    )
    prompts = next(field.component for field in fields if field.flag == "sample-prompts")
    wire_photos(studio, form, photos, prompts)
    _wire_events(_Handlers(studio, fields), page, shared, context)


def _wire_events(
    handlers: "_Handlers", page: _Page, shared: SharedState, context: TabContext
) -> None:
    """Connect the events of the tab's components."""
    components = [*page.form.fields, *(field.component for field in page.fields)]
    filled = [page.proposed, page.form.effort, page.form.model, page.lack]
    restored = [*page.form.fields, page.photos.rows, page.photos.note]
    loaded = shared.page.load(handlers.restore, None, restored, **PRIVATE)
    refills = [loaded.then(handlers.fill, components, filled, **PRIVATE)]
    changes = [component.change for component in components]
    refills.append(
        gr.on(changes, handlers.fill, components, filled, trigger_mode="always_last", **PRIVATE)
    )
    texts = [page.command, page.generated]
    page.command.change(
        lambda text, own: gr.Button(visible=bool(text) and text != own), texts, page.back, **PRIVATE
    )
    reset = page.back.click(lambda: "", None, page.command, **PRIVATE)
    refills.append(reset.then(handlers.fill, components, filled, **PRIVATE))
    for refill in refills:
        refill.then(
            None, [page.proposed, *reversed(texts)], texts, js=TAKE_UNLESS_WRITTEN, **PRIVATE
        )
    shown_state = gr.State("")
    gr.on(
        context.refresh_events,
        handlers.refresh,
        [page.command, shown_state, page.lack],
        [page.requirements, shown_state],
        **PRIVATE,
    )
    inputs, marks = [page.command, page.lack], [page.form.noun, page.photos.note]
    page.measure.click(handlers.measure, inputs, None, api_name="measure", **NO_SPINNER)
    for button in (page.start, page.measure):
        button.click(handlers.mark, [page.command, page.form.noun], marks, **PRIVATE)
    started = [shared.training, shared.tabs, page.form.name, page.command]
    page.start.click(handlers.start, inputs, started, api_name="start_training", **NO_SPINNER)
    taken = [page.command, page.generated, shared.settings]
    triggers = [shared.settings.change, context.tab.select]
    gr.on(triggers, handlers.take_over, shared.settings, taken, **PRIVATE)


class _Handlers:
    """Handlers of the tab's events."""

    def __init__(self, studio: Studio, fields: list[OptionField]) -> None:
        self._studio, self._fields = studio, fields
        self._estimates = ResourceEstimateStore(studio.auth.home)

    def fill(self, request: gr.Request, *values: Any):
        """Return the command that the form describes."""
        save_form(
            self._studio.workspace(request.headers), dict(zip(FIELD_NAMES, values, strict=False))
        )
        effort, text, lack = "", "", ""
        try:
            train_request = request_of(values, self._fields)
            effort = f"{recommended_steps(train_request.model, train_request.preset):,} steps."
            text = shown_command(train_arguments(train_request))
        except StudioError as error:  # It is shown above the Start button.
            lack = str(error)
        return text, effort, gr.Textbox(visible=values[2] != EMBEDDED), lack

    def restore(self, request: gr.Request):
        """Return the form's values from before a reload, and the draft's photos."""
        workspace = self._studio.workspace(request.headers)
        values = {**DEFAULTS, **load_form(workspace)}
        shown = [values[name] for name in FIELD_NAMES]
        rows = show_photos(workspace, *(str(values[n]) for n in ("noun", "base", "model")))
        return *shown, rows, messages_view(workspace)

    def refresh(self, shown: str, before: str, lack: str, request: gr.Request):
        """Show the time and memory that the training would take, or what is missing."""
        workspace = self._studio.workspace(request.headers)
        text = requirements_view(self._studio, self._estimates, workspace, shown, lack)
        return (gr.skip() if text == before else text), text

    def mark(self, shown: str, noun: str, request: gr.Request):
        """Mark the empty fields that the training needs; filling a field in removes its mark."""
        workspace = self._studio.workspace(request.headers)
        lacks_noun = not shown.strip() and not noun.strip()
        has_photos = bool(photos_of(workspace, DRAFT))
        return (
            gr.Textbox(elem_classes=["lacking"] if lacks_noun else []),
            gr.skip() if has_photos else messages_view(workspace, problem=ADD_PHOTOS),
        )

    def measure(self, shown: str, request: gr.Request, lack: str = "") -> None:
        """Queue a preflight: a few real steps that measure time and memory."""
        try:
            workspace, arguments, options = self._prepare_command(shown, request, lack)
            if uses_draft_photos(options):
                check_draft_photos(workspace, options.resolution or resolution_of(options.model))
                arguments = [*arguments, "--instance-dir", f"photos/{DRAFT}"]
            self._estimates.begin(workspace, self._studio.jobs, options, arguments)
        except StudioError as error:
            raise error_toast(error, "Not measured") from error

    def start(self, shown: str, request: gr.Request, lack: str = ""):
        """Start or queue the training."""
        jobs = self._studio.jobs
        try:
            workspace, arguments, options = self._prepare_command(shown, request, lack)
            measuring = self._estimates.under_way(workspace, jobs)
            resolution, writes = resolution_of(options.model), self._estimates.bytes_of(options)
            submit_training(workspace, jobs, arguments, options, resolution, writes)
            if measuring is not None:
                jobs.stop(measuring)
        except StudioError as error:
            raise error_toast(error, "Not started") from error
        name = options.run_name
        return name, gr.Tabs(selected="watch"), free_name(workspace, jobs, name), ""

    def take_over(self, run: str, request: gr.Request):
        """Return a run's settings as a command with a free name."""
        if not run:
            return gr.skip(), gr.skip(), gr.skip()
        workspace = self._studio.workspace(request.headers)
        try:
            text = shown_command(arguments_of_run(workspace, self._studio.jobs, run))
        except StudioError as error:
            raise error_toast(error) from error
        return text, "", ""

    def _prepare_command(
        self, shown: str, request: gr.Request, lack: str
    ) -> tuple[Workspace, list[str], DreamboothOptions]:
        """Return the command's arguments and options, checked for this visitor."""
        workspace = self._studio.workspace(request.headers)
        if not shown.strip():
            raise StudioError(missing_requirements(workspace, lack))
        arguments = parse_shown_command(shown)
        options = check_arguments(workspace, arguments, self._studio.is_model_allowed)
        self._studio.check_training(options)
        return workspace, arguments, options


def _step_heading(number: int, words: str) -> str:
    return f'<div class="step-head"><i>{number}</i><h2>{words}</h2></div>'
