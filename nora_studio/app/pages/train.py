"""The Train tab: name it, show it, start."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.advanced import Field, build_fields
from nora_studio.app.pages.html_events import HIDDEN, QUIET, told
from nora_studio.app.pages.photo_notes import note_view
from nora_studio.app.pages.photo_rows import resolution_of
from nora_studio.app.pages.shared import Place, Shared
from nora_studio.app.pages.start_requirements import ADD_PHOTOS, missing, needs_view
from nora_studio.app.pages.token_doctor import build_token_doctor
from nora_studio.app.pages.train_form import KEPT, PLAIN, Form, build_form, request_of
from nora_studio.app.pages.train_photos import Photos, build_photos, show_photos, wire_photos
from nora_studio.app.server.drafts import (
    DRAFT,
    arguments_again,
    begin_training,
    check_draft,
    free_name,
    is_of_draft,
    keep_form,
    kept_form,
)
from nora_studio.app.server.measures import Measures
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.training import (
    arguments_of,
    as_shown,
    check_arguments,
    recommended_steps,
    train_arguments,
)
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.options.config import DreamboothOptions

# Decided in the browser, where the command is what has been typed by now, not when the form asked.
TAKE_UNLESS_WRITTEN = """(proposed, generated, shown) =>
  shown && shown !== generated ? [shown, generated] : [proposed, proposed]"""
CARD: dict[str, Any] = {"min_width": 320, "elem_classes": "card"}


@dataclass(frozen=True)
class _Page:
    """The tab's components beyond those of steps 1 and 2."""

    form: Form
    photos: Photos
    need: gr.HTML
    start: gr.Button
    measure: gr.Button
    command: gr.Textbox
    back: gr.Button
    fields: list[Field]
    proposed: gr.Textbox
    """The command that the form comes to."""
    lack: gr.State
    """Why the form comes to no command; empty: it does."""
    generated: gr.Textbox
    """The last of them that was taken over. Another command than that was written by somebody, and
    the form leaves it alone."""


def build(studio: Studio, shared: Shared, place: Place) -> None:
    """Lay out the tab and wire it."""
    with gr.Row(elem_classes="steps"):
        with gr.Column(scale=4, **CARD):
            gr.HTML(_step(1, "Name it"))
            form = build_form()
        with gr.Column(scale=5, **CARD):
            gr.HTML(_step(2, "Show it"))
            photos = build_photos()
        with gr.Column(scale=4, **CARD):
            gr.HTML(_step(3, "Start"))
            need = gr.HTML("", elem_id="train-need")
            start = gr.Button("Start training", variant="primary", elem_id="train-start")
            measure = gr.Button("Measure time and memory first", elem_id="train-measure")
            command = gr.Textbox(
                "", label="The command it runs", lines=9, max_lines=30, buttons=["copy"],
                elem_id="train-command", elem_classes="mono",
                info="The same in a terminal does the same. Change it if you like.",
            )  # fmt: skip
            back = gr.Button("Back to what the form says", visible=False, size="sm")
    with gr.Accordion("Advanced: every option of the trainer", open=False, elem_id="advanced"):
        fields = build_fields()
    build_token_doctor(studio, form)
    proposed, generated = gr.Textbox(visible=False), gr.Textbox(visible=False)
    lack = gr.State("")
    page = _Page(
        form, photos, need, start, measure, command, back, fields, proposed, lack, generated
    )
    prompts = next(field.component for field in fields if field.flag == "sample-prompts")
    wire_photos(studio, form, photos, prompts)
    _wire(_Answers(studio, fields), page, shared, place)


def _wire(answers: "_Answers", page: _Page, shared: Shared, place: Place) -> None:
    """Have the tab's components answer."""
    components = [*page.form.fields, *(field.component for field in page.fields)]
    filled = [page.proposed, page.form.effort, page.form.model, page.lack]
    restored = [*page.form.fields, page.photos.rows, page.photos.note]
    loaded = shared.page.load(answers.restore, None, restored, **QUIET)
    refills = [loaded.then(answers.fill, components, filled, **QUIET)]
    changes = [component.change for component in components]
    refills.append(
        gr.on(changes, answers.fill, components, filled, trigger_mode="always_last", **QUIET)
    )
    texts = [page.command, page.generated]
    page.command.change(
        lambda text, own: gr.Button(visible=bool(text) and text != own), texts, page.back, **QUIET
    )
    reset = page.back.click(lambda: "", None, page.command, **QUIET)
    refills.append(reset.then(answers.fill, components, filled, **QUIET))
    for refill in refills:
        refill.then(None, [page.proposed, *reversed(texts)], texts, js=TAKE_UNLESS_WRITTEN, **QUIET)
    seen = gr.State("")
    gr.on(place.looks, answers.look, [page.command, seen, page.lack], [page.need, seen], **QUIET)
    asked, marks = [page.command, page.lack], [page.form.noun, page.photos.note]
    page.measure.click(answers.measure, asked, None, api_name="measure", **HIDDEN)
    for button in (page.start, page.measure):
        button.click(answers.mark, [page.command, page.form.noun], marks, **QUIET)
    started = [shared.training, shared.tabs, page.form.name, page.command]
    page.start.click(answers.start, asked, started, api_name="start_training", **HIDDEN)
    taken = [page.command, page.generated, shared.settings]
    handed = [shared.settings.change, place.tab.select]
    gr.on(handed, answers.take_over, shared.settings, taken, **QUIET)


class _Answers:
    """What the tab's events come to."""

    def __init__(self, studio: Studio, fields: list[Field]) -> None:
        self._studio, self._fields = studio, fields
        self._measures = Measures(studio.auth.home)

    def fill(self, request: gr.Request, *values: Any):
        """The command that the form comes to."""
        keep_form(self._studio.workspace(request.headers), dict(zip(KEPT, values, strict=False)))
        effort, text, lack = "", "", ""
        try:
            asked = request_of(values, self._fields)
            effort = f"{recommended_steps(asked.model, asked.preset):,} steps."
            text = as_shown(train_arguments(asked))
        except StudioError as error:  # It stands beside the start.
            lack = str(error)
        return text, effort, gr.Textbox(visible=values[2] != EMBEDDED), lack

    def restore(self, request: gr.Request):
        """What stood in the form before a reload, and its photos."""
        workspace = self._studio.workspace(request.headers)
        values = {**PLAIN, **kept_form(workspace)}
        shown = [values[name] for name in KEPT]
        rows = show_photos(workspace, *(str(values[n]) for n in ("noun", "base", "model")))
        return *shown, rows, note_view(workspace)

    def look(self, shown: str, before: str, lack: str, request: gr.Request):
        """What a start would take."""
        workspace = self._studio.workspace(request.headers)
        text = needs_view(self._studio, self._measures, workspace, shown, lack)
        return (gr.skip() if text == before else text), text

    def mark(self, shown: str, noun: str, request: gr.Request):
        """Mark the fields that a start lacks; what is filled in takes its mark away itself."""
        workspace = self._studio.workspace(request.headers)
        lacks_noun = not shown.strip() and not noun.strip()
        has_photos = bool(photos_of(workspace, DRAFT))
        return (
            gr.Textbox(elem_classes=["lacking"] if lacks_noun else []),
            gr.skip() if has_photos else note_view(workspace, problem=ADD_PHOTOS),
        )

    def measure(self, shown: str, request: gr.Request, lack: str = "") -> None:
        """Try a few real steps, and tell how long the whole would take."""
        try:
            workspace, arguments, options = self._ready(shown, request, lack)
            if is_of_draft(options):
                check_draft(workspace, options.resolution or resolution_of(options.model))
                arguments = [*arguments, "--instance-dir", f"photos/{DRAFT}"]
            self._measures.begin(workspace, self._studio.jobs, options, arguments)
        except StudioError as error:
            raise told(error, "Not measured") from error

    def start(self, shown: str, request: gr.Request, lack: str = ""):
        """Start the training, or put it into the queue."""
        jobs = self._studio.jobs
        try:
            workspace, arguments, options = self._ready(shown, request, lack)
            measuring = self._measures.under_way(workspace, jobs)
            resolution, writes = resolution_of(options.model), self._measures.bytes_of(options)
            begin_training(workspace, jobs, arguments, options, resolution, writes)
            if measuring is not None:
                jobs.stop(measuring)
        except StudioError as error:
            raise told(error, "Not started") from error
        name = options.run_name
        return name, gr.Tabs(selected="watch"), free_name(workspace, jobs, name), ""

    def take_over(self, run: str, request: gr.Request):
        """A run's settings as a command of its own, under a free name."""
        if not run:
            return gr.skip(), gr.skip(), gr.skip()
        workspace = self._studio.workspace(request.headers)
        try:
            text = as_shown(arguments_again(workspace, self._studio.jobs, run))
        except StudioError as error:
            raise told(error) from error
        return text, "", ""

    def _ready(
        self, shown: str, request: gr.Request, lack: str
    ) -> tuple[Workspace, list[str], DreamboothOptions]:
        """The arguments behind the command and what they come to, checked for this visitor."""
        workspace = self._studio.workspace(request.headers)
        if not shown.strip():
            raise StudioError(missing(workspace, lack))
        arguments = arguments_of(shown)
        options = check_arguments(workspace, arguments, self._studio.is_model_allowed)
        self._studio.check_training(options)
        return workspace, arguments, options


def _step(number: int, words: str) -> str:
    return f'<div class="step-head"><i>{number}</i><h2>{words}</h2></div>'
