"""Step 2 of the Train tab: uploading, captioning and checking photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.examples import example_cards
from nora_studio.app.pages.html_events import FORWARD_EVENTS, PRIVATE, error_toast, event_data
from nora_studio.app.pages.photo_messages import example_question, messages_view
from nora_studio.app.pages.photo_rows import EMPTY, notes_list, photo_rows, resolution_of
from nora_studio.app.pages.train_form import DEFAULTS, TrainForm, model_of
from nora_studio.app.server.draft_trash import (
    DRAFT,
    add_to_draft,
    example_of,
    restore_last,
    trash_photo,
)
from nora_studio.app.server.drafts import free_name, load_form, use_example
from nora_studio.app.server.photo_report import photo_report
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.upload_notes import dismiss_notes, upload_notes
from nora_studio.app.server.uploads import ACCEPTED_SUFFIXES, Upload, photos_of, set_caption
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED
from nora_studio.mini.shipped import ShippedSubject


@dataclass(frozen=True)
class Photos:
    """The components of step 2."""

    drop: gr.File
    note: gr.HTML
    """Refused files, and the undo button."""
    refused: gr.State
    """A sentence for each file that was left out and not yet dismissed."""
    rows: gr.HTML
    question: gr.HTML
    """The question whether an example may replace the visitor's photos."""
    examples: gr.HTML


def build_photos() -> Photos:
    """Lay out the drop zone, the rows and the examples."""
    drop = gr.File(
        file_count="multiple", file_types=["image", *ACCEPTED_SUFFIXES], label="Photos",
        height=130, elem_id="train-drop",
    )  # fmt: skip
    note = gr.HTML("", js_on_load=FORWARD_EVENTS, elem_id="train-note")
    rows = gr.HTML(EMPTY, js_on_load=FORWARD_EVENTS, elem_id="train-photos")
    with gr.Accordion("Examples", open=True, elem_id="train-examples"):
        question = gr.HTML("", js_on_load=FORWARD_EVENTS, elem_id="train-question")
        examples = gr.HTML(example_cards(), js_on_load=FORWARD_EVENTS)
    return Photos(drop, note, gr.State([]), rows, question, examples)


def show_photos(workspace: Workspace, noun: str, base: str, model: str) -> str:
    """Show the draft's photos as rows."""
    photos, base_model = photos_of(workspace, DRAFT), model_of(base, model)
    report = photo_report(workspace, DRAFT, resolution_of(base_model))
    notes = upload_notes(workspace, DRAFT)
    return notes_list(notes) + photo_rows(workspace, photos, report, base_model, noun)


def wire_photos(
    studio: Studio, form: TrainForm, photos: Photos, sample_prompts: gr.components.Component
) -> None:
    """Connect the photos' events."""
    handlers = _Handlers(studio)
    state = [form.noun, form.base, form.model]
    # Refused files are listed on the page, so the handler does not raise for them.
    photos.drop.upload(
        handlers.receive,
        [photos.drop, *state, photos.refused],
        [photos.drop, photos.rows, photos.note, photos.refused, form.name, form.noun,
         sample_prompts],
        api_name="add_photos",
        show_progress="minimal",
        show_progress_on=photos.note,
    )  # fmt: skip
    photos.rows.submit(handlers.set_caption_of, None, None, **PRIVATE)
    changed = [photos.rows, photos.note]
    photos.rows.select(handlers.remove, [photos.refused, *state], changed, **PRIVATE)
    photos.note.select(
        handlers.press_note,
        [photos.refused, *state],
        [photos.rows, photos.note, photos.refused],
        **PRIVATE,
    )
    filled = [
        form.name, form.noun, form.base, photos.rows, sample_prompts, photos.note, photos.question,
    ]  # fmt: skip
    for part in (photos.examples, photos.question):
        part.select(handlers.press_example, photos.refused, filled, **PRIVATE)


class _Handlers:
    """Handlers of the events of step 2."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def receive(
        self,
        request: gr.Request,
        files: Sequence[str] | None,
        noun: str,
        base: str,
        model: str,
        refused: list[str],
    ):
        """Add photos, and captions and masks named after them, to the draft."""
        workspace, uploads = self._studio.workspace(request.headers), self._studio.auth.uploads
        visitor, paths = workspace.folder.name, list(files or ())
        example, before = example_of(workspace), len(photos_of(workspace, DRAFT))
        problems: list[str] = []
        try:
            claimed = [Upload(uploads.claim(visitor, path), Path(path).name) for path in paths]
            add_to_draft(workspace, claimed)  # Files that it refuses get notes.
            for path in paths:
                uploads.release(visitor, path)
        except StudioError as error:
            problems = [str(error)]
        refused = [*refused, *problems]
        message, form = "", [gr.skip()] * 3
        if example and not example_of(workspace):
            message = f"The example's {before} photos were removed: yours show another subject."
            noun, form = _without_example(workspace, example, noun)
        note = messages_view(workspace, refused=refused, message=message)
        return None, show_photos(workspace, noun, base, model), note, refused, *form

    def set_caption_of(self, event: gr.EventData, request: gr.Request) -> None:
        """Save a photo's caption."""
        data, workspace = event_data(event), self._studio.workspace(request.headers)
        try:
            set_caption(workspace, DRAFT, data.get("photo", ""), data.get("value", ""))
        except StudioError as error:
            raise error_toast(error, "Not saved") from error

    def remove(self, event: gr.EventData, request: gr.Request, refused: list[str], *state: str):
        """Remove a photo, which can be restored; or dismiss the notes."""
        data, workspace = event_data(event), self._studio.workspace(request.headers)
        try:
            if data.get("act") == "dismiss-notes":
                dismiss_notes(workspace, DRAFT)
            else:
                trash_photo(workspace, data.get("photo", ""))
        except StudioError as error:
            raise error_toast(error) from error
        return show_photos(workspace, *state), messages_view(workspace, refused=refused)

    def press_example(self, event: gr.EventData, request: gr.Request, refused: list[str]):
        """Use an example; first ask if it would replace the visitor's photos."""
        data, workspace = event_data(event), self._studio.workspace(request.headers)
        name = data.get("subject", "")
        own = 0 if example_of(workspace) else len(photos_of(workspace, DRAFT))
        if data.get("act") == "keep":
            return [*[gr.skip()] * 6, ""]
        if own and data.get("act") != "take":
            return [*[gr.skip()] * 6, example_question(name, own)]
        try:
            subject = use_example(workspace, name)
        except StudioError as error:
            raise error_toast(error) from error
        free = free_name(workspace, self._studio.jobs, subject.name)
        rows = show_photos(workspace, subject.class_word, EMBEDDED, "")
        note = messages_view(workspace, refused=refused)
        prompts = "\n".join(subject.prompts[:2])
        return [free, subject.class_word, EMBEDDED, rows, prompts, note, ""]

    def press_note(self, event: gr.EventData, request: gr.Request, refused: list[str], *state: str):
        """Undo the last removal, or dismiss the list of refused files."""
        data, workspace = event_data(event), self._studio.workspace(request.headers)
        try:
            if data.get("act") == "undo":
                restore_last(workspace)
        except StudioError as error:
            raise error_toast(error) from error
        refused = [] if data.get("act") == "dismiss" else refused
        return show_photos(workspace, *state), messages_view(workspace, refused=refused), refused


def _without_example(workspace: Workspace, example: str, noun: str) -> tuple[str, list[Any]]:
    """Return the noun, and updates of name, noun and prompts, without an example's values."""
    subject, kept = ShippedSubject.load(example), load_form(workspace)
    is_its_name = str(kept.get("name", "")).startswith(subject.name)
    noun = "" if noun == subject.class_word else noun
    return noun, [DEFAULTS["name"] if is_its_name else gr.skip(), noun, ""]
