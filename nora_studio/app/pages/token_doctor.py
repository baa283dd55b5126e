"""The token doctor: the tokens of a prompt with "[V]", and the base's images of it."""

from typing import Any

import gradio as gr

from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.pages.html_events import NO_SPINNER, PRIVATE, error_toast
from nora_studio.app.pages.train_form import TrainForm, model_of
from nora_studio.app.server.image_jobs import ImageJob
from nora_studio.app.server.studio import Studio
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError

POLL_SECONDS = 1.5
PROMPT_LIMIT = 300
SEEDS = (0, 1)
ENCODERS = {"tokenizer": "Encoder 1 (CLIP ViT-L)", "tokenizer_2": "Encoder 2 (OpenCLIP bigG)"}
INTRO = (
    "The model needs a word for your subject that has no meaning to it yet. This shows the word "
    "that it would use for [V], how both text encoders split the prompt into tokens, and what the "
    "untrained model makes of the prompt with and without the word: the two should look alike."
)


def build_token_doctor(studio: Studio, form: TrainForm) -> None:
    """Lay out the section and connect its events."""
    with gr.Accordion("Token doctor: what does the model read?", open=False, elem_id="doctor"):
        gr.HTML(f'<p class="note">{INTRO}</p>')
        with gr.Row(elem_classes="bar"):
            prompt = gr.Textbox(
                "a photo of a [V] mug", label="Prompt", max_length=PROMPT_LIMIT, scale=3
            )
            word = gr.Textbox(
                "", label="Word for [V]", placeholder="chosen for you", max_length=60, scale=1
            )
            look = gr.Button("Tokenize and generate", size="md", scale=0, min_width=150)
        reading = gr.HTML("", elem_id="doctor-reading")
        images = gr.HTML("", elem_id="doctor-pictures")
    shown_job, timer = gr.State(""), gr.Timer(POLL_SECONDS, active=False)

    def examine(asked: str, own: str, base: str, model: str, request: gr.Request):
        """Tokenize a prompt, and generate the base's images of it with the word and without."""
        workspace, name = studio.workspace(request.headers), model_of(base, model)
        rare_word = own.strip() or "auto"
        try:
            studio.models.check(name, "the model")
            found = studio.image_queue.tokenize_prompt(asked[:PROMPT_LIMIT], name, rare_word)
            image_request: dict[str, Any] = {
                "columns": [
                    {"label": "without"},
                    {"label": "with", "rare_word": rare_word},
                ],
                "prompts": [asked[:PROMPT_LIMIT]],
                "seeds": list(SEEDS),
                "model": name,
                "steps": 15,
            }
            job_id = studio.image_queue.submit(workspace, image_request, {"kind": "doctor"})
        except StudioError as error:
            raise error_toast(error, "Not tokenized") from error
        job = studio.image_queue.read(workspace, job_id)
        shown = images_view(workspace, job, found.get("rare_word") or "")
        return reading_view(found), shown, job_id, gr.Timer(active=True)

    def refresh(name: str, request: gr.Request):
        if not name:
            return gr.skip(), gr.Timer(active=False)
        workspace = studio.workspace(request.headers)
        try:
            job = studio.image_queue.read(workspace, name)
        except StudioError:
            return gr.skip(), gr.Timer(active=False)
        rare_word = job.words.get(1) or ""
        return images_view(workspace, job, rare_word), gr.Timer(active=job.is_under_way)

    inputs = [prompt, word, form.base, form.model]
    outputs = [reading, images, shown_job, timer]
    look.click(examine, inputs, outputs, api_name="examine_tokens", **NO_SPINNER)
    timer.tick(refresh, shown_job, [images, timer], **PRIVATE)
    form.noun.change(
        lambda noun: f"a photo of a [V] {' '.join(str(noun).split()) or 'mug'}",
        form.noun, prompt, **PRIVATE,
    )  # fmt: skip


def reading_view(found: dict[str, Any]) -> str:
    """Show the tokens of a prompt in both encoders."""
    rows = []
    for encoder in found["encoders"]:
        pieces = "".join(_piece(token, found["rare_word"]) for token in encoder["tokens"])
        used = f"{len(encoder['tokens'])} of {encoder['limit']} tokens"
        label = str(ENCODERS.get(encoder["name"], encoder["name"]))
        rows.append(
            f'<div class="reading"><h3>{escaped(label)}</h3><div class="pieces">{pieces}</div>'
            f'<span class="note">{used}</span></div>'
        )
    return "".join(rows)


def _piece(token: dict[str, Any], rare_word: str | None) -> str:
    kind = " rare" if rare_word and token["text"] == rare_word.lower() else ""
    part = "" if token["ends_word"] else " part"
    return (
        f'<span class="piece{kind}{part}" title="Token id {int(token["id"])}">'
        f"{escaped(str(token['text']))}</span>"
    )


def images_view(workspace: Workspace, job: ImageJob, word: str) -> str:
    """Show the base's images, without the word above and with it below."""
    if job.error:
        return f'<p class="problem">{escaped(as_sentence(job.error))}</p>'
    rows = []
    for column, words in enumerate(("Without a word", f"With “{word or '…'}”")):
        cells = []
        for seed in range(len(job.request.seeds)):
            file = job.file(workspace, (column, 0, seed))
            inside = '<div class="picture"></div>'
            if file is not None:
                address = escaped(workspace.url(file))
                inside = f'<img class="picture" src="{address}" alt="{escaped(words)}">'
            cells.append(inside)
        rows.append(f'<div class="doctor-row"><h3>{escaped(words)}</h3>{"".join(cells)}</div>')
    waits = f'<p class="note">{escaped(job.waits_for)}</p>' if job.waits_for else ""
    return f'{waits}<div class="doctor-rows">{"".join(rows)}</div>'
