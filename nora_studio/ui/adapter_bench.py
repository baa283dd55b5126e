"""The bench of the Adapters tab: what to make of the chosen adapters, and the command for it."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.errors import StudioError
from nora_studio.studio.adapter_commands import AdapterDesk, Chosen, Order
from nora_studio.studio.workspace import safe_name

ACTIONS = (
    ("Export", "export"),
    ("Mix", "mix"),
    ("Merge", "merge"),
    ("Publish", "push"),
    ("Look inside", "inspect"),
)
WORDS = {
    "export": "One adapter as a single file for another program.",
    "mix": "Two adapters or more added up into one file, each by its strength.",
    "merge": "A whole pipeline with the adapters in its weights; it needs nothing else.",
    "push": "One adapter with its page and pictures on the Hugging Face Hub.",
    "inspect": "What a file is, and which layers it changes most.",
}
STARTS = {
    "export": "Export",
    "mix": "Mix",
    "merge": "Merge",
    "push": "Look first",
    "inspect": "Look inside",
}
FORMATS = [
    ("ComfyUI, A1111, Forge", "kohya"),
    ("diffusers", "diffusers"),
    ("Seed file", "seed"),
]
PRECISIONS = [("As usual", ""), ("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32")]


@dataclass(frozen=True)
class Bench:
    """Its components."""

    fields: tuple[Any, ...]
    """In the order that `order` takes their values."""
    command: gr.HTML
    start: gr.Button
    token: gr.Textbox
    publish: gr.Button

    def order(self, desk: AdapterDesk, chosen: Sequence[Chosen], values: Sequence[Any]) -> Order:
        """The command that the fields come to.

        Raises:
            StudioError: something is missing, or is none of what is taken.
        """
        action, to, name, precision, rank, model, repository, licence, private = values
        cut = int(rank) if rank else None
        base = (model or "").strip()
        if not chosen:
            raise StudioError("choose an adapter on the shelf first.")
        if action in ("export", "push", "inspect") and len(chosen) > 1:
            raise StudioError("this takes one adapter. Take the others out, or mix them first.")
        path = chosen[0].path
        if action == "export":
            stem = safe_name(name) if (name or "").strip() else ""
            return desk.export(path, to, precision, cut, stem, base)
        if action == "mix":
            stem = safe_name(name or "mix", "mix")
            return desk.mix(chosen, stem, "kohya" if to == "seed" else to, precision, cut, base)
        if action == "merge":
            return desk.merge(chosen, safe_name(name or "merged", "merged"), precision, base)
        if action == "push":
            place = (repository or "").strip()
            return desk.push(path, place, (licence or "").strip(), bool(private), True, base)
        if action == "inspect":
            return desk.inspect(path)
        raise StudioError(f"expected something to do; got {str(action)[:40]!r}.")


def build_bench() -> Bench:
    """Lay the bench out, and show of it what the chosen action needs."""
    action = gr.Radio(
        list(ACTIONS), value="export", label="What to make", elem_id="adapters-action"
    )
    words = gr.HTML(_words("export"))
    to = gr.Radio(
        FORMATS, value="kohya", label="For", elem_id="adapters-format",
        info="A seed file is the smallest; only this studio reads it, on the same base.",
    )  # fmt: skip
    name = gr.Textbox(
        "", label="Name", placeholder="after the adapter", max_length=48, elem_id="adapters-name"
    )
    repository = gr.Textbox(
        "", label="Where", placeholder="your-name/my-mug", max_length=190, visible=False,
        elem_id="adapters-repository", info="Owner and name on huggingface.co.",
    )  # fmt: skip
    licence = gr.Textbox(
        "", label="Licence", placeholder="openrail++", max_length=40, visible=False,
        info="As the Hub abbreviates it; empty: as its card says.",
    )  # fmt: skip
    private = gr.Checkbox(True, label="Private: only you can see it", visible=False)
    with gr.Accordion("More", open=False):
        precision = gr.Dropdown(
            PRECISIONS, value="", label="Precision",
            info="Of the numbers in the file; as usual: fp16, and fp32 for a seed file.",
        )  # fmt: skip
        rank = gr.Number(
            None, label="Cut to rank", precision=0, minimum=1, maximum=4096,
            info="A smaller file that is not quite exact; the error is told. Empty: all of it.",
        )  # fmt: skip
        model = gr.Textbox(
            "", label="Base", max_length=200, info="Empty: the one it was trained on."
        )
    command = gr.HTML("", elem_id="adapters-command")
    start = gr.Button("Export", variant="primary", interactive=False, elem_id="adapters-start")
    token = gr.Textbox(
        "", label="Hub token", type="password", max_length=200, visible=False,
        elem_id="adapters-token", info="It goes to this one upload, and is kept nowhere.",
    )  # fmt: skip
    publish = gr.Button("Publish", visible=False, elem_id="adapters-publish")

    def turn(now: str):
        is_push = now == "push"
        return [
            _words(now),
            gr.Radio(visible=now in ("export", "mix"), choices=_formats(now)),
            gr.Textbox(visible=now in ("export", "mix", "merge")),
            gr.Button(STARTS.get(now, "Start")),
            *(gr.update(visible=is_push) for _ in range(5)),
        ]

    action.change(
        turn,
        action,
        [words, to, name, start, repository, licence, private, token, publish],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    fields = (action, to, name, precision, rank, model, repository, licence, private)
    return Bench(fields, command, start, token, publish)


def _formats(action: str) -> list[tuple[str, str]]:
    return FORMATS if action == "export" else FORMATS[:2]


def _words(action: str) -> str:
    return f'<p class="note">{WORDS.get(action, "")}</p>'


def shown_command(make: Callable[[], Order]) -> tuple[str, Any]:
    """The command as a person would type it, and the button; or what is missing."""
    try:
        order = make()
    except StudioError as error:
        text = str(error)
        words = html.escape(text[:1].upper() + text[1:])
        return f'<p class="note">{words}</p>', gr.Button(interactive=False)
    return (
        f'<pre class="command">{html.escape(order.shown)}</pre>',
        gr.Button(interactive=True),
    )
