"""The form of the Adapters tab: an action on the chosen adapters, and its command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from nora_studio.app.pages.escaping import as_sentence, escaped
from nora_studio.app.pages.number_field import NumberField
from nora_studio.app.server.adapter_commands import AdapterCommand, AdapterCommandBuilder
from nora_studio.app.server.image_requests import AdapterChoice
from nora_studio.app.server.limits import MAX_RANK
from nora_studio.app.server.workspace import safe_name
from nora_studio.errors import StudioError
from nora_studio.mini.assets import EMBEDDED

ACTIONS = (
    ("Export", "export"),
    ("Mix", "mix"),
    ("Merge", "merge"),
    ("Publish", "push"),
    ("Inspect", "inspect"),
)
HAVE_STRENGTHS = ("mix", "merge")
DESCRIPTIONS = {
    "export": "One adapter as a single file for another program.",
    "mix": "Two or more adapters added up into one file, each at its strength.",
    "merge": "A whole pipeline with the adapters merged into its weights.",
    "push": "One adapter on the Hugging Face Hub, with its page and images.",
    "inspect": "The kind of a file, and the layers that it changes most.",
}
START_LABELS = {
    "export": "Export",
    "mix": "Mix",
    "merge": "Merge",
    "push": "Preview",
    "inspect": "Inspect",
}
FORMATS = [
    ("ComfyUI, A1111, Forge", "kohya"),
    ("diffusers", "diffusers"),
    ("Seed file", "seed"),
]
SEED_HINT = "A seed file is the smallest, but only this studio reads it, on the same base."
MINIATURE = "Miniature, built in"
BASES = [
    ("The one it was trained on", ""),
    (MINIATURE, EMBEDDED),
    ("Stable Diffusion XL", "stabilityai/stable-diffusion-xl-base-1.0"),
]
RANK = NumberField("Reduce to rank", least=1, most=MAX_RANK)
PRECISIONS = [("Default", ""), ("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32")]


@dataclass(frozen=True)
class ActionForm:
    """The form's components."""

    fields: tuple[Any, ...]
    """Fields in the order that `build_command` takes their values."""
    command: gr.HTML
    start: gr.Button
    token: gr.Textbox
    publish: gr.Button

    @property
    def action(self) -> gr.Radio:
        """The action to run."""
        return self.fields[0]

    def build_command(
        self,
        commands: AdapterCommandBuilder,
        chosen: Sequence[AdapterChoice],
        values: Sequence[Any],
    ) -> AdapterCommand:
        """Return the command that the fields describe.

        Raises:
            StudioError: a field is empty or has a value that is not allowed.
        """
        action, to, mix_to, name, precision, rank, model, repository, licence, private = values
        number = RANK.read(rank)
        max_rank = None if number is None else int(number)
        base = base_named(model)
        if not chosen:
            raise StudioError("no adapter is chosen. Choose one on the left first.")
        if action in ("export", "push", "inspect") and len(chosen) > 1:
            raise StudioError(
                f"this action takes one adapter; got {len(chosen)}. Deselect the others, or mix "
                "them first."
            )
        path = chosen[0].path
        stem = safe_name(name) if (name or "").strip() else ""
        if action == "export":
            return commands.export(path, to, precision, max_rank, stem, base)
        if action == "mix":
            stem = stem or safe_name(f"{Path(path).stem}-mix")
            return commands.mix(chosen, stem, mix_to, precision, max_rank, base)
        if action == "merge":
            stem = stem or safe_name(f"{Path(path).stem}-merged")
            return commands.merge(chosen, stem, precision, base)
        if action == "push":
            repository = (repository or "").strip()
            return commands.push(
                path, repository, (licence or "").strip(), bool(private), True, base
            )
        if action == "inspect":
            return commands.inspect(path)
        known = ", ".join(name for _, name in ACTIONS)
        raise StudioError(f"expected an action ({known}); got {str(action)[:40]!r}.")


def build_action_form() -> ActionForm:
    """Lay out the form, with the fields that the first action needs."""
    action = gr.Radio(list(ACTIONS), value="export", label="Action", elem_id="adapters-action")
    description = gr.HTML(_description("export"))
    # Each action has a field of its own: if choices change, Gradio keeps a value that is no longer
    # one of them, and refuses every request that contains it.
    to = gr.Radio(FORMATS, value="kohya", label="Format", info=SEED_HINT, elem_id="adapters-format")
    mix_to = gr.Radio(
        FORMATS[:2], value="kohya", label="Format", info="The file is a LoRA, exactly.",
        visible=False, elem_id="adapters-mix-format",
    )  # fmt: skip
    name = gr.Textbox(
        "",
        label="Name",
        placeholder="named after the adapter",
        max_length=48,
        elem_id="adapters-name",
    )
    model = gr.Dropdown(
        BASES, value="", label="Base", allow_custom_value=True, elem_id="adapters-base",
        info="The model that it works with: choose one, or enter a Hub name or a directory.",
    )  # fmt: skip
    repository, licence, private = _hub_fields()
    precision, rank = _more_fields()
    command = gr.HTML("", elem_id="adapters-command")
    start = gr.Button("Export", variant="primary", interactive=False, elem_id="adapters-start")
    token = gr.Textbox(
        "", label="Hub token", type="password", max_length=200, visible=False,
        info="A token with write access. It is used for this upload and not stored.",
        elem_id="adapters-token",
    )  # fmt: skip
    publish = gr.Button("Publish", visible=False, elem_id="adapters-publish")
    action.change(
        _fields_of_action,
        action,
        [description, to, mix_to, name, model, start, repository, licence, private, token, publish],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    fields = (action, to, mix_to, name, precision, rank, model, repository, licence, private)
    return ActionForm(fields, command, start, token, publish)


def _hub_fields() -> tuple[gr.Textbox, gr.Textbox, gr.Checkbox]:
    repository = gr.Textbox(
        "", label="Repository", placeholder="your-name/my-mug", max_length=190, visible=False,
        elem_id="adapters-repository", info="Owner and name on huggingface.co.",
    )  # fmt: skip
    licence = gr.Textbox(
        "", label="Licence", placeholder="openrail++", max_length=40, visible=False,
        info="The Hub's short name. Empty: the licence on its card.",
    )  # fmt: skip
    return repository, licence, gr.Checkbox(True, label="Private: only you see it", visible=False)


def _more_fields() -> tuple[gr.Dropdown, gr.Textbox]:
    with gr.Accordion("More", open=False):
        precision = gr.Dropdown(
            PRECISIONS, value="", label="Precision",
            info="Of the numbers in the file. Default: fp16, and fp32 for a seed file.",
        )  # fmt: skip
        rank = RANK.build(
            placeholder="full rank", elem_id="adapters-rank",
            info="A smaller file that is not quite exact; the error is shown. Empty: full rank.",
        )  # fmt: skip
    return precision, rank


def _fields_of_action(action: str) -> list[Any]:
    """Return updates that show the fields an action needs and hide the others."""
    return [
        _description(action),
        gr.Radio(visible=action == "export"),
        gr.Radio(visible=action == "mix"),
        gr.Textbox(visible=action in ("export", "mix", "merge")),
        gr.Dropdown(visible=action != "inspect"),
        gr.Button(START_LABELS.get(action, "Start")),
        *(gr.update(visible=action == "push") for _ in range(5)),
    ]


def base_named(text: str | None) -> str:
    """Return the base model that a text names, by its label on the page or its own name."""
    written = (text or "").strip()
    known = {label.casefold(): name for label, name in BASES}
    known |= dict.fromkeys(("miniature", "the embedded model", "the miniature"), EMBEDDED)
    return known.get(written.casefold().rstrip("."), written)


def _description(action: str) -> str:
    return f'<p class="note">{DESCRIPTIONS.get(action, "")}</p>'


def command_view(make: Callable[[], AdapterCommand]) -> tuple[str, Any]:
    """Return the command as a person would type it and the button; or what is missing."""
    try:
        command = make()
    except StudioError as error:
        return f'<p class="note">{escaped(as_sentence(str(error)))}</p>', gr.Button(
            interactive=False
        )
    return (
        f'<pre class="command">{escaped(command.shown)}</pre>',
        gr.Button(interactive=True),
    )
