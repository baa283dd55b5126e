"""Step 1 of the Train tab: name, class, model, effort and methods."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from nora_studio.app.pages.advanced import OptionField, flags_of
from nora_studio.app.server.training import PRESETS, TrainRequest
from nora_studio.app.server.workspace import safe_name
from nora_studio.mini.assets import EMBEDDED

OWN_MODEL = "sdxl"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
METHODS = ("nora", "lora")


@dataclass(frozen=True)
class TrainForm:
    """The fields of step 1."""

    name: gr.Textbox
    noun: gr.Textbox
    base: gr.Radio
    model: gr.Textbox
    preset: gr.Radio
    effort: gr.HTML
    methods: gr.CheckboxGroup

    @property
    def fields(self) -> list[Any]:
        """The fields that have values, in the order of `FIELD_NAMES`."""
        return [self.name, self.noun, self.base, self.model, self.preset, self.methods]


DEFAULTS: dict[str, Any] = {
    "name": "my-subject",
    "noun": "",
    "base": EMBEDDED,
    "model": SDXL,
    "preset": "balanced",
    "methods": list(METHODS),
}
"""The form's first values."""
FIELD_NAMES = tuple(DEFAULTS)


def build_form() -> TrainForm:
    """Lay out the fields."""
    name = gr.Textbox(
        "my-subject", label="Name", max_length=48, elem_id="train-name",
        info="The name of its files.",
    )  # fmt: skip
    noun = gr.Textbox(
        "", label="What it is", placeholder="mug, dog, toy car", max_length=60,
        elem_id="train-class",
        info="A word or two that the model knows; it learns what is special about your subject.",
    )  # fmt: skip
    base = gr.Radio(
        [("Miniature, built in", EMBEDDED), ("Stable Diffusion XL", OWN_MODEL)], value=EMBEDDED,
        label="Model", elem_id="train-model",
        info="The miniature generates small toy images, in minutes and without a GPU.",
    )  # fmt: skip
    model = gr.Textbox(
        SDXL, label="Directory or Hub name", visible=False, elem_id="train-model-name"
    )
    preset = gr.Radio(
        [(word.capitalize(), word) for word in PRESETS], value="balanced", label="Effort",
        elem_id="train-preset",
    )  # fmt: skip
    effort = gr.HTML("", elem_classes="note")
    methods = gr.CheckboxGroup(
        [("NoRA", "nora"), ("LoRA", "lora")], value=list(METHODS), label="Methods",
        elem_id="train-methods",
        info="Both train on the same images at the same time, so you can compare them.",
    )  # fmt: skip
    return TrainForm(name, noun, base, model, preset, effort, methods)


def request_of(values: Sequence[Any], fields: Sequence[OptionField]) -> TrainRequest:
    """Return the request that the form and the Advanced section describe."""
    name, noun, base, model, preset, methods, *more = values
    chosen = tuple(method for method in METHODS if method in (methods or ()))
    return TrainRequest(
        name=safe_name(str(name or "")),
        class_word=str(noun or ""),
        model=model_of(base, model),
        preset=str(preset),
        methods=chosen or ("nora",),
        more=tuple(flags_of(fields, more)),
    )


def model_of(base: str, model: str) -> str:
    """Return the base model that the form names."""
    return (str(model or "").strip() or SDXL) if base == OWN_MODEL else EMBEDDED
