"""Step 2 of the Train tab: photos dropped, described, judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from nora_studio.assets import EMBEDDED
from nora_studio.errors import StudioError
from nora_studio.studio.drafts import DRAFT, free_name, take_example
from nora_studio.studio.photo_report import photo_report
from nora_studio.studio.studio import Studio
from nora_studio.studio.upload_notes import dismiss_notes, upload_notes
from nora_studio.studio.uploads import (
    TAKEN_SUFFIXES,
    Incoming,
    add_photos,
    photos_of,
    remove_photo,
    set_caption,
)
from nora_studio.studio.workspace import Workspace
from nora_studio.ui.acts import ON_LOAD, QUIET, act_of, told
from nora_studio.ui.examples import example_cards
from nora_studio.ui.photo_rows import EMPTY, notes_list, photo_rows, resolution_of
from nora_studio.ui.train_form import Form, model_of


@dataclass(frozen=True)
class Photos:
    """The components of step 2."""

    drop: gr.File
    rows: gr.HTML
    examples: gr.HTML


def build_photos() -> Photos:
    """Lay out the drop zone, the rows and the examples."""
    drop = gr.File(
        file_count="multiple", file_types=["image", *TAKEN_SUFFIXES], label="Photos",
        height=130, elem_id="train-drop",
    )  # fmt: skip
    rows = gr.HTML(EMPTY, js_on_load=ON_LOAD, elem_id="train-photos")
    with gr.Accordion("Examples", open=True, elem_id="train-examples"):
        examples = gr.HTML(example_cards(), js_on_load=ON_LOAD)
    return Photos(drop, rows, examples)


def show_photos(workspace: Workspace, noun: str, base: str, model: str) -> str:
    """The draft's photos as rows."""
    photos, base_model = photos_of(workspace, DRAFT), model_of(base, model)
    report = photo_report(workspace, DRAFT, resolution_of(base_model))
    notes = upload_notes(workspace, DRAFT)
    return notes_list(notes) + photo_rows(workspace, photos, report, base_model, noun)


def wire_photos(
    studio: Studio, form: Form, photos: Photos, sample_prompts: gr.components.Component
) -> None:
    """Have the photos answer."""
    state = [form.noun, form.base, form.model]

    def receive(request: gr.Request, files: Sequence[str] | None, *state: str):
        """Store photos, and captions and masks named after them, beside those that are there."""
        workspace, uploads = studio.workspace(request.headers), studio.doorman.uploads
        visitor, paths = workspace.folder.name, list(files or ())
        try:
            claimed = [Incoming(uploads.claim(visitor, path), Path(path).name) for path in paths]
            received = add_photos(workspace, DRAFT, claimed)
            for path in paths:
                uploads.release(visitor, path)
        except StudioError as error:
            raise told(error, "Not taken") from error
        if received.notes:
            several = f"{len(received.notes)} files were not taken as they are; a list names them."
            told_now = received.problems[0] if len(received.notes) == 1 else several
            gr.Warning(told_now, title="Not all taken", duration=12)
        return None, show_photos(workspace, *state)

    def describe(event: gr.EventData, request: gr.Request) -> None:
        act, workspace = act_of(event), studio.workspace(request.headers)
        try:
            set_caption(workspace, DRAFT, act.get("photo", ""), act.get("value", ""))
        except StudioError as error:
            raise told(error, "Not kept") from error

    def remove(event: gr.EventData, request: gr.Request, *state: str) -> str:
        act, workspace = act_of(event), studio.workspace(request.headers)
        try:
            if act.get("act") == "dismiss-notes":
                dismiss_notes(workspace, DRAFT)
            else:
                remove_photo(workspace, DRAFT, act.get("photo", ""))
        except StudioError as error:
            raise told(error) from error
        return show_photos(workspace, *state)

    def take(event: gr.EventData, request: gr.Request):
        workspace = studio.workspace(request.headers)
        try:
            subject = take_example(workspace, act_of(event).get("subject", ""))
        except StudioError as error:
            raise told(error) from error
        name = free_name(workspace, studio.jobs, subject.name)
        rows = show_photos(workspace, subject.class_word, EMBEDDED, "")
        return name, subject.class_word, EMBEDDED, rows, "\n".join(subject.prompts[:2])

    photos.drop.upload(
        receive, [photos.drop, *state], [photos.drop, photos.rows], api_name="add_photos"
    )
    photos.rows.submit(describe, None, None, **QUIET)
    photos.rows.select(remove, state, photos.rows, **QUIET)
    filled = [form.name, form.noun, form.base, photos.rows, sample_prompts]
    photos.examples.select(take, None, filled, **QUIET)
