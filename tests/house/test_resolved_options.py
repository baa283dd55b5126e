"""Options are decided once: behind `resolve` nothing is left open, and nothing gets a default."""

import ast
import dataclasses
import typing
from operator import attrgetter
from pathlib import Path

import pytest
from support.modules import PACKAGE, modules, scripts

from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.options.part_settings import PartSettings
from nora_studio.tasks.commonsense.settings import CommonsenseSettings
from nora_studio.tasks.dreambooth.settings import DreamboothSettings, resolve
from nora_studio.tasks.fewshot.settings import FewshotSettings

RESOLVED = (DreamboothSettings, FewshotSettings, CommonsenseSettings)
ROOMS = ("trainer", "tasks", "sdxl", "nora", "adapters")
IN_FRONT = {
    "trainer/settings.py",
    "tasks/dreambooth/settings.py",
    "tasks/dreambooth/task.py",
    "tasks/dreambooth/fitting.py",
    "tasks/dreambooth/preflight.py",
    "tasks/fewshot/options.py",
    "tasks/fewshot/recommended.py",
    "tasks/fewshot/settings.py",
    "tasks/fewshot/task.py",
    "tasks/fewshot/methods/contract.py",
    "tasks/fewshot/methods/clip_adapter.py",
    "tasks/fewshot/methods/weights.py",
    "tasks/fewshot/methods/zero_shot.py",
    "tasks/commonsense/options.py",
    "tasks/commonsense/defaults.py",
    "tasks/commonsense/settings.py",
    "tasks/commonsense/table.py",
    "tasks/commonsense/task.py",
}
"""The files of these rooms that see options: those that fill them in, check and resolve them."""
ABSENT = {(PartSettings, "outer_rank"), (PartSettings, "alpha")}
"""None here says that a method has no such thing, and not that it is still to be decided."""


def kinds(kind: type) -> set[type]:
    """A dataclass and those that it consists of."""
    found = {kind}
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint)):
            for inner in (part, *typing.get_args(part)):
                if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                    found |= kinds(inner)
    return found


SETTINGS: set[type] = set().union(*map(kinds, RESOLVED))
FIELDS = {
    field.name
    for kind in SETTINGS
    for field in dataclasses.fields(kind)
    if (kind, field.name) not in ABSENT
}


@pytest.mark.parametrize("kind", sorted(SETTINGS, key=attrgetter("__qualname__")))
def test_settings_are_frozen_and_leave_nothing_open(kind):
    assert kind.__dataclass_params__.frozen
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        is_optional = type(None) in typing.get_args(hints[field.name])
        assert is_optional == ((kind, field.name) in ABSENT), field.name
        assert field.default is dataclasses.MISSING, f"{field.name} has a default of its own"
        assert field.default_factory is dataclasses.MISSING, field.name


def test_what_is_left_out_is_decided_as_the_help_texts_say(tmp_path):
    settings = resolve(with_recommended(DreamboothOptions(tmp_path, "a photo of a [V] mug")))
    learning, photos, subject = settings.trainer.learning, settings.photos, settings.subject
    assert (learning.schedule, learning.schedule_cycles, learning.schedule_power) == (
        "cosine",
        2,
        2.0,
    )
    assert (learning.steps, learning.batch_size, learning.ema) == (120, 3, 0.0)
    assert settings.trainer.tuning.lora_plus_ratio == 16.0
    assert (photos.buckets, photos.crops, photos.mask_floor) == ("where they pay", 1, 0.1)
    assert (settings.loss.snr_gamma, settings.loss.max_timestep) == (5.0, 0)
    assert (subject.trigger, subject.text_encoder_steps) == ("", 0)
    assert (settings.prior.prompt, settings.prior.pictures) == ("a photo of a mug", 0)
    assert settings.previews.prompts == ("a photo of a [V] mug",)
    assert (settings.base.resolution, settings.base.targets) == (256, "attention+feedforward")


@pytest.mark.parametrize("option", ["trigger", "class_prompt"])
def test_an_empty_word_is_refused_and_not_taken_for_none(tmp_path, option):
    given = {option: "", "prior_weight": 1.0}
    options = DreamboothOptions(tmp_path, "a photo of a [V] mug", **given)
    with pytest.raises(StudioError, match=f"--{option.replace('_', '-')}"):
        with_recommended(options)


def rooms() -> list[Path]:
    return sorted(file for room in ROOMS for file in (PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("file", rooms(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_behind_resolve_no_options_are_seen_and_no_setting_gets_a_default(file):
    tree, name = ast.parse(file.read_text(encoding="utf-8")), str(file.relative_to(PACKAGE))
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "options" in (node.module or "")
        for alias in node.names
        if alias.name.endswith("Options")
    }
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    defined = {kind for kind in defined if kind.endswith("Options")}
    assert bool(seen | defined) == (name in IN_FRONT)
    if name not in IN_FRONT:
        assert [ast.unparse(node) for node in ast.walk(tree) if gives_default(node)] == []


def gives_default(node: ast.AST) -> bool:
    """Whether a node is `x.setting or y`, `y if x.setting is None else z`, or a `getattr` of it."""
    match node:
        case ast.BoolOp(op=ast.Or(), values=[ast.Attribute(attr=name), *_]):
            return name in FIELDS
        case ast.IfExp(test=ast.Compare(left=ast.Attribute(attr=name), comparators=[none])):
            return name in FIELDS and ast.unparse(none) == "None"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=name), other]):
            return name in FIELDS and ast.unparse(other) != "None"
    return False


@pytest.mark.parametrize(
    "line",
    [
        "steps = settings.steps or 0",
        "cycles = 2 if learning.schedule_cycles is None else learning.schedule_cycles",
        "final = getattr(options, 'final', 'last')",
    ],
)
def test_a_default_behind_resolve_would_be_found(line):
    assert any(gives_default(node) for node in ast.walk(ast.parse(line)))


def test_no_class_is_put_together_from_many_others():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert len(node.bases) <= 8, f"{file}: {node.name}"


def test_every_option_of_every_command_is_read_somewhere():
    """By its name as an attribute, or as a string where options are walked through."""
    options, read = set(), set()
    for file in [*modules(), *scripts()]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Options"):
                fields = (one for one in node.body if isinstance(one, ast.AnnAssign))
                options |= {ast.unparse(field.target) for field in fields}
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    assert len(options) > 100
    assert options <= read, "an option that nothing reads is ignored in silence"
