"""The Advanced section: a field for each of the trainer's options, built from the dataclasses."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import gradio as gr

from nora_studio.app.pages.escaping import escaped
from nora_studio.app.pages.number_field import NumberField
from nora_studio.options.config import PART_FIELDS, DreamboothOptions
from nora_studio.options.groups.adapter import PartOptions
from nora_studio.options.options_file import flag_words
from nora_studio.options.options_page import helps, own_fields

ELSEWHERE = {
    "instance_dir", "prompt", "model", "output_dir", "name", "steps", "method", "resume",
    "tracker", "fit", "preflight", "preflight_out", "class_dir",
}  # fmt: skip
"""Options with fields elsewhere on the page, and options that the studio sets itself."""
GROUPS = {
    "AdapterOptions": "Adapter",
    "TuningOptions": "Adapter",
    "SubjectOptions": "Subject",
    "PhotoOptions": "Photos",
    "TokenOptions": "New tokens",
    "LearningOptions": "Optimizer",
    "EncoderOptions": "Optimizer",
    "LossOptions": "Loss",
    "PrecisionOptions": "Memory",
    "BaseOptions": "Memory",
    "MemoryOptions": "Memory",
    "SampleOptions": "Samples and checkpoints",
    "MeasuringOptions": "Samples and checkpoints",
    "KeepingOptions": "Samples and checkpoints",
}
PARTS = {"unet": "UNet", "text_encoder": "Text encoder 1", "text_encoder_2": "Text encoder 2"}
LABELS = {"clip": "Judge (CLIP)"}
"""Labels of options whose names are unclear by themselves."""
AS_RECOMMENDED = "as recommended"

Owned = tuple[type, dataclasses.Field]
"""A field and the dataclass that declares it."""


@dataclasses.dataclass(frozen=True)
class OptionField:
    """One option and its component."""

    flag: str
    """Without the leading "--": "unet.rank"."""
    kind: Any
    """Its type."""
    default: Any
    component: gr.components.Component
    number: NumberField | None = None
    """The parser of its text, if the option is a number."""

    def flags(self, value: Any) -> list[str]:
        """Return the command-line arguments for a component's value; none for the default.

        Raises:
            StudioError: the text of a number field is not a number.
        """
        if self.kind == bool | None:
            value = {"yes": True, "no": False}.get(value)
        elif self.kind is bool:
            value = bool(value)
        elif get_origin(self.kind) is tuple:
            value = tuple(line.strip() for line in str(value or "").splitlines() if line.strip())
        elif self.number is not None:
            value = self.number.read(value)
        elif value in (None, "", AS_RECOMMENDED):
            return []
        return [] if value == self.default or value is None else flag_words(self.flag, value)


def build_fields() -> list[OptionField]:
    """Lay out all options, grouped in tabs; call it within the section."""
    fields: list[OptionField] = []
    groups: dict[str, list[Owned]] = {}
    for kind in reversed(DreamboothOptions.__mro__):
        if kind.__name__ in GROUPS:
            listed = [(kind, field) for field in own_fields(kind) if _is_listed(kind, field)]
            groups.setdefault(GROUPS[kind.__name__], []).extend(listed)
    with gr.Tabs():
        for title, owned in groups.items():
            if not owned:
                continue
            with gr.Tab(title):
                for row in _rows(owned):
                    with gr.Row(elem_classes="options"):
                        fields += [
                            _field(kind, one, "", helps(kind)[one.name]) for kind, one in row
                        ]
        for part in PART_FIELDS:
            with gr.Tab(PARTS[part]):
                meanings = helps(PartOptions)
                for row in _rows([(PartOptions, one) for one in dataclasses.fields(PartOptions)]):
                    with gr.Row(elem_classes="options"):
                        prefix = f"{part.replace('_', '-')}."
                        fields += [
                            _field(kind, one, prefix, meanings[one.name]) for kind, one in row
                        ]
    return fields


def _is_listed(kind: type, field: dataclasses.Field) -> bool:
    hint = get_type_hints(kind)[field.name]
    return field.name not in ELSEWHERE and hint is not PartOptions


def _rows(fields: list[Owned]) -> list[list[Owned]]:
    return [fields[start : start + 3] for start in range(0, len(fields), 3)]


def _union_members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _field(owner: type, field: dataclasses.Field, prefix: str, info: str) -> OptionField:
    hint = get_type_hints(owner)[field.name]
    flag = f"{prefix}{field.name.replace('_', '-')}"
    default: Any = field.default
    common: dict[str, Any] = {
        "label": _label(field.name),
        "info": info.replace("`", ""),
        "min_width": 240,
    }
    component: Any
    number = None
    kinds = _union_members(hint)
    literal = next((kind for kind in kinds if get_origin(kind) is Literal), None)
    if hint is bool:
        component = gr.Checkbox(default, **common)
    elif hint == bool | None:
        component = gr.Dropdown([AS_RECOMMENDED, "yes", "no"], value=AS_RECOMMENDED, **common)
    elif literal is not None:
        optional = [AS_RECOMMENDED] if type(None) in kinds else []
        choices = [*optional, *get_args(literal)]
        component = gr.Dropdown(choices, value=default or AS_RECOMMENDED, **common)
    elif int in kinds or float in kinds:
        number = NumberField(common.pop("label"), is_whole=float not in kinds)
        component = number.build(default, placeholder=AS_RECOMMENDED, **common)
    elif get_origin(hint) is tuple:
        component = gr.Textbox("\n".join(default), lines=2, placeholder="One per line", **common)
    else:
        assert str in kinds or Path in kinds, escaped(flag)
        component = gr.Textbox(default or "", placeholder=AS_RECOMMENDED, **common)
    return OptionField(flag, hint, default, component, number)


def _label(name: str) -> str:
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def flags_of(fields: Sequence[OptionField], values: Sequence[Any]) -> list[str]:
    """Return the command-line arguments for every option that differs from its default."""
    return [
        word for field, value in zip(fields, values, strict=True) for word in field.flags(value)
    ]
