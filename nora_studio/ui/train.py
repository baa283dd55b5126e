"""The Train tab: name it, show it, start."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.atomic import replacing
from nora_studio.errors import StudioError
from nora_studio.models import EMBEDDED
from nora_studio.shipped import ShippedSubject
from nora_studio.studio.measures import Measures, words_of
from nora_studio.studio.photo_report import photo_report
from nora_studio.studio.studio import Studio
from nora_studio.studio.training import (
    PRESETS,
    TrainRequest,
    arguments_of,
    as_shown,
    check_arguments,
    recommended_steps,
    runs_of,
    train_arguments,
    train_command,
)
from nora_studio.studio.uploads import (
    Incoming,
    add_photos,
    photos_of,
    remove_photo,
    remove_subject,
    set_caption,
)
from nora_studio.studio.workspace import Workspace, safe_name
from nora_studio.ui.acts import ON_LOAD, act_of, told
from nora_studio.ui.advanced import build_fields, flags_of
from nora_studio.ui.examples import example_cards
from nora_studio.ui.photo_rows import EMPTY, photo_rows, resolution_of
from nora_studio.ui.shared import Shared

DRAFT = "new"
"""The photos of a training to be; a start copies them under the training's own name."""
POLL_SECONDS = 2.0
OWN_MODEL = "Stable Diffusion XL"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}


def build(studio: Studio, shared: Shared, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    measures = Measures(studio.doorman.home)
    with gr.Row(elem_classes="steps"):
        with gr.Column(scale=4, min_width=320, elem_classes="card"):
            gr.HTML(_step(1, "Name it"))
            name = gr.Textbox(
                "my-subject", label="Name", max_length=48, elem_id="train-name",
                info="What its files will be called.",
            )  # fmt: skip
            noun = gr.Textbox(
                "", label="What it is", placeholder="mug, dog, toy car", max_length=60,
                elem_id="train-class",
                info="A word or two that the model knows; it learns what is special about yours.",
            )  # fmt: skip
            base = gr.Radio(
                [("Miniature, built in", EMBEDDED), (OWN_MODEL, OWN_MODEL)], value=EMBEDDED,
                label="Model", elem_id="train-model",
                info="The miniature draws small toy pictures in minutes, without a GPU.",
            )  # fmt: skip
            model = gr.Textbox(
                "stabilityai/stable-diffusion-xl-base-1.0", label="Directory or Hub name",
                visible=False, elem_id="train-model-name",
            )  # fmt: skip
            preset = gr.Radio(
                [(word.capitalize(), word) for word in PRESETS], value="balanced", label="Effort",
                elem_id="train-preset",
            )  # fmt: skip
            effort = gr.HTML("", elem_classes="note")
            methods = gr.CheckboxGroup(
                [("NoRA", "nora"), ("LoRA", "lora")], value=["nora", "lora"], label="Methods",
                elem_id="train-methods",
                info="Both learn from the same pictures at the same time, so you can compare them.",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=340, elem_classes="card"):
            gr.HTML(_step(2, "Show it"))
            drop = gr.File(
                file_count="multiple", file_types=["image", ".heic", ".heif", ".txt"],
                label="Photos", height=130, elem_id="train-drop",
            )  # fmt: skip
            rows = gr.HTML(EMPTY, js_on_load=ON_LOAD, elem_id="train-photos")
            with gr.Accordion("Examples", open=True, elem_id="train-examples"):
                examples = gr.HTML(example_cards(), js_on_load=ON_LOAD)
        with gr.Column(scale=4, min_width=320, elem_classes="card"):
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
    edited = gr.State(False)
    seen = gr.State("")
    timer = gr.Timer(POLL_SECONDS)
    form = [name, noun, base, model, preset, methods, *(field.component for field in fields)]

    def fill(is_edited: bool, shown: str, *values: Any) -> tuple[Any, ...]:
        """The command that the form comes to, unless somebody has written another."""
        request = _request(values, fields)
        try:
            steps = recommended_steps(request.model, request.preset)
            effort_words = f"{steps:,} steps."
            text = shown if is_edited else as_shown(train_arguments(request))
        except StudioError:
            effort_words, text = "", shown if is_edited else ""
        own = values[2] != EMBEDDED
        return text, effort_words, gr.Textbox(visible=own), gr.Button(visible=is_edited)

    changes = [part.change for part in form]
    filled = [command, effort, model, back]
    gr.on(
        [*changes, tab.select], fill, [edited, command, *form], filled,
        trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    command.input(lambda: (True, gr.Button(visible=True)), None, [edited, back], **QUIET)
    back.click(lambda: False, None, edited, **QUIET).then(
        fill, [edited, command, *form], filled, **QUIET
    )

    def show(workspace: Workspace, noun_now: str, own: str, named: str) -> str:
        model_now = named if own == OWN_MODEL else EMBEDDED
        photos = photos_of(workspace, DRAFT)
        report = photo_report(workspace, DRAFT, resolution_of(model_now))
        return photo_rows(workspace, photos, report, model_now, noun_now)

    def receive(request: gr.Request, files: Sequence[str] | None, *state: str):
        workspace = studio.workspace(request.headers)
        visitor = workspace.folder.name
        uploads = studio.doorman.uploads
        try:
            incoming = [
                Incoming(uploads.claim(visitor, file), Path(file).name) for file in files or ()
            ]
            received = add_photos(workspace, DRAFT, incoming)
            for file in files or ():
                uploads.release(visitor, file)
        except StudioError as error:
            raise told(error, "Not taken") from error
        for problem in received.problems[:5]:
            gr.Warning(problem, title="Left out", duration=12)
        return None, show(workspace, *state)

    def on_row(event: gr.EventData, request: gr.Request):
        """Keep a caption as it was written."""
        act, workspace = act_of(event), studio.workspace(request.headers)
        try:
            set_caption(workspace, DRAFT, act.get("photo", ""), act.get("value", ""))
        except StudioError as error:
            raise told(error, "Not kept") from error

    def on_remove(event: gr.EventData, request: gr.Request, *state: str):
        act, workspace = act_of(event), studio.workspace(request.headers)
        try:
            remove_photo(workspace, DRAFT, act.get("photo", ""))
        except StudioError as error:
            raise told(error) from error
        return show(workspace, *state)

    def on_example(event: gr.EventData, request: gr.Request):
        """Take a shipped subject's photos instead of what is there."""
        workspace = studio.workspace(request.headers)
        try:
            subject = ShippedSubject.load(act_of(event).get("subject", ""))
            if (workspace.photos / DRAFT).is_dir():
                remove_subject(workspace, DRAFT)
            files = sorted((subject.folder / "photos").iterdir())
            add_photos(workspace, DRAFT, [Incoming(file, file.name) for file in files])
        except StudioError as error:
            raise told(error) from error
        free = _free_name(workspace, subject.name)
        rows_now = show(workspace, subject.class_word, EMBEDDED, "")
        prompts = "\n".join(subject.prompts[:2])
        return free, subject.class_word, EMBEDDED, rows_now, prompts

    state = [noun, base, model]
    sample_prompts = next(f.component for f in fields if f.flag == "sample-prompts")
    drop.upload(receive, [drop, *state], [drop, rows], api_name="add_photos")
    rows.submit(on_row, None, None, **QUIET)
    rows.select(on_remove, state, rows, **QUIET)
    examples.select(on_example, None, [name, noun, base, rows, sample_prompts], **QUIET)

    def ready(shown: str, request: gr.Request):
        """The options behind the command, checked for this visitor; its arguments too."""
        workspace = studio.workspace(request.headers)
        arguments = arguments_of(shown)
        options = check_arguments(workspace, arguments, studio.is_model_allowed)
        return workspace, arguments, options

    def look(shown: str, before: str, noun_now: str, request: gr.Request):
        workspace = studio.workspace(request.headers)
        text = _need(studio, measures, workspace, shown, noun_now)
        return (gr.skip() if text == before else text), text

    def begin_measuring(shown: str, request: gr.Request) -> None:
        """Try a few real steps, and tell how long the whole would take."""
        try:
            workspace, arguments, options = ready(shown, request)
            _check_photos(workspace, options.resolution or resolution_of(options.model))
            drafted = ["--instance-dir", f"photos/{DRAFT}"]
            measures.begin(workspace, studio.jobs, options, [*arguments, *drafted])
        except StudioError as error:
            raise told(error, "Not measured") from error

    def begin(shown: str, request: gr.Request):
        """Start the training, or put it into the queue."""
        try:
            workspace, arguments, options = ready(shown, request)
            place = Path(options.instance_dir)
            if place == Path("photos") / options.run_name:
                _check_photos(workspace, options.resolution or resolution_of(options.model))
                _keep_photos(workspace, options.run_name)
            elif not (workspace.folder / place).is_dir():
                raise StudioError(f"--instance-dir: there is no folder {place} of yours.")
            pending = measures.under_way(workspace, studio.jobs)
            if pending is not None:
                studio.jobs.stop(pending)
            studio.jobs.submit(
                workspace, "train", options.run_name, train_command(arguments),
                as_shown(arguments), runs_of(options),
            )  # fmt: skip
        except StudioError as error:
            raise told(error, "Not started") from error
        return options.run_name, gr.Tabs(selected="watch"), _free_name(workspace, options.run_name)

    gr.on([timer.tick, tab.select], look, [command, seen, noun], [need, seen], **QUIET)
    measure.click(begin_measuring, command, None, api_name="measure")
    start.click(begin, command, [shared.training, shared.tabs, name], api_name="start_training")

    def arrive(request: gr.Request, *state: str):
        return show(studio.workspace(request.headers), *state)

    tab.select(arrive, state, rows, **QUIET)


def _step(number: int, words: str) -> str:
    return f'<div class="step-head"><i>{number}</i><h2>{words}</h2></div>'


def _request(values: Sequence[Any], fields: Sequence[Any]) -> TrainRequest:
    name, noun, base, model, preset, methods, *rest = values
    chosen = [method for method in ("nora", "lora") if method in (methods or ())]
    return TrainRequest(
        name=safe_name(name or ""),
        class_word=noun or "",
        model=model.strip() if base == OWN_MODEL else EMBEDDED,
        preset=preset,
        methods=tuple(chosen or ["nora"]),
        more=tuple(flags_of(fields, rest)),
    )


def _free_name(workspace: Workspace, name: str) -> str:
    """The name itself, or with a number if there is a training of that name."""
    taken = {run.name.rsplit("-", 1)[0] for run in workspace.runs.iterdir()}
    stem, number, free = name, 2, name
    head, _, tail = name.rpartition("-")
    if head and tail.isdigit():
        stem, number = head, int(tail) + 1
    while free in taken:
        free, number = f"{stem}-{number}", number + 1
    return free


def _check_photos(workspace: Workspace, resolution: int) -> None:
    if not photos_of(workspace, DRAFT):
        raise StudioError("there are no photos yet. Drop some in step 2, or take an example.")
    report = photo_report(workspace, DRAFT, resolution)
    if not report.is_usable:
        raise StudioError("a photo cannot be used; it is marked in step 2. Remove or replace it.")


def _keep_photos(workspace: Workspace, name: str) -> None:
    """Copy the draft's photos under the training's name: later changes leave them alone."""
    with replacing(workspace.photos / name) as fresh:
        shutil.copytree(
            workspace.photos / DRAFT, fresh, dirs_exist_ok=True,
            ignore=shutil.ignore_patterns(".lock", ".incoming-*"),
        )  # fmt: skip


def _need(studio: Studio, measures: Measures, workspace: Workspace, shown: str, noun: str) -> str:
    """What a start would take, or what is missing for one."""
    if not (workspace.photos / DRAFT).is_dir() or not photos_of(workspace, DRAFT):
        return _note("Add photos first: five or more are best.")
    if not noun.strip() and not shown.strip():
        return _note("Say in step 1 what it is.")
    try:
        options = check_arguments(workspace, arguments_of(shown), studio.is_model_allowed)
    except StudioError as error:
        return _note(str(error), "problem")
    measure = measures.find(options)
    queue = (
        _note("Another training is at work; this one would wait for it.")
        if (studio.jobs.is_device_busy())
        else ""
    )
    if measure is not None:
        try:
            return _note(f"<b>{words_of(measure)}</b> Measured here.") + queue
        except StudioError as error:
            return _note(str(error), "problem")
    if measures.under_way(workspace, studio.jobs) is not None:
        return _note("Measuring a few real steps. This takes about a minute.")
    tried = measures.was_tried(workspace, studio.jobs, options)
    if tried is not None and studio.jobs.state(tried) == "failed":
        last = (studio.jobs.tail(tried, 1) or ["it was killed."])[0]
        return _note(last.removeprefix("error: "), "problem")
    return _note("How long it takes is not known yet: measure it, or just start.") + queue


def _note(words: str, kind: str = "note") -> str:
    return f'<p class="{kind}">{words}</p>'
