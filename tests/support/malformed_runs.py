"""Malformed run folders, and requests to the drawing server."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from support.malformed import DEEP, HUGE, PROMPT, Case, golden, nothing
from support.malformed_adapters import text_of

_RUN_DAMAGE: dict[str, dict[str, str | bytes]] = {
    "status.json": {
        "empty": "",
        "cut": '{"state": "fini',
        "a list": "[]",
        "null": "null",
        "a state of another kind": '{"state": 5, "step": 2}',
        "an unknown state": '{"state": "flying", "step": 2}',
        "a step of another kind": '{"state": "finished", "step": "two", "steps": {}}',
        "not a number": '{"state": "finished", "step": NaN, "steps": Infinity}',
        "an absurd process": f'{{"state": "running", "step": 2, "pid": {10**30}, "host": "vm"}}',
        "a negative process": '{"state": "running", "step": 2, "pid": -1, "host": "vm"}',
        "a process of another kind": '{"state": "running", "step": 2, "pid": "me", "started": []}',
        "an absurd time": f'{{"state": "finished", "step": 2, "time": {10**40}}}',
        "deep nesting": "[" * DEEP + "]" * DEEP,
        "a huge integer": f'{{"state": "finished", "step": {HUGE}}}',
        "other bytes": bytes(range(128, 256)),
    },
    "config.toml": {
        "empty": "",
        "cut": 'instance_dir = "pho',
        "an unknown option": "flying = true\n",
        "a value of another kind": 'steps = "many"\n',
        "not a number": "steps = nan\n",
        "deep nesting": "a = " + "[" * DEEP + "]" * DEEP,
        "a huge integer": f"steps = {HUGE}\n",
        "other bytes": bytes(range(128, 256)),
    },
    "log.jsonl": {
        "empty": "",
        "a cut line": '{"step": 2, "loss": 1.0}\n{"step": 4, "lo',
        "no JSON": "hello\n",
        "a list": "[]\n",
        "a step of another kind": '{"step": "two", "loss": 1.0}\n',
        "no step": '{"loss": 1.0}\n',
        "not a number": '{"step": 2, "loss": NaN}\n',
        "a loss of another kind": '{"step": 2, "loss": {"a": []}}\n',
        "deep nesting": "[" * DEEP + "]" * DEEP + "\n",
        "a huge integer": f'{{"step": {HUGE}, "loss": 1}}\n',
        "other bytes": bytes(range(128, 256)),
    },
    "photos.json": {
        "cut": '{"a.jpg": "5a',
        "a list": "[]",
        "a value of another kind": '{"a.jpg": 5}',
        "other bytes": bytes(range(128, 256)),
    },
}
_SETTINGS_NEEDED = ("continue",)


def run_folders() -> Iterator[Case]:
    for file, damages in _RUN_DAMAGE.items():
        for label, content in damages.items():
            build = partial(_damaged_run, file, content)
            what = f"{file}: {label}"
            # The list is for all runs: one that is damaged must not hide the sound one beside it.
            yield Case(
                "runs", "run folder", f"list: {what}", build, ("list",), ("mug-lora",), "well"
            )
            yield Case(
                "runs", "run folder", f"show: {what}", build, ("show", "mug-nora"),
                ("mug-nora", file), ends="either",
            )  # fmt: skip
            yield Case(
                "runs", "run folder", f"diff: {what}", build, ("diff", "mug-nora", "mug-lora"),
                ("mug-nora", file), ends="either",
            )  # fmt: skip


def _damaged_run(file: str, content: str | bytes) -> None:
    golden("runs/mug-nora", "runs/mug-lora")
    text_of(file, content)(Path("runs/mug-nora"))


_REQUEST = {
    "columns": [{"label": "base"}],
    "prompts": [PROMPT],
    "seeds": [0],
    "steps": 1,
    "guidance": 2.0,
    "size": 32,
}
_VALUES: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("not a number", float("nan")),
    ("infinity", float("inf")),
    ("a huge integer", 10**400),
    ("a negative number", -1),
    ("a table", {"a": 1}),
    ("an empty list", []),
    ("a list of lists", [[[]]]),
    ("truth", True),
    ("a null byte", "a\0b"),
    ("deep nesting", json.loads("[" * 500 + "]" * 500)),
)
_MAY_BE_MISSING = {"seeds", "size", "negative", "model", "precision", "references", "guidance"}


def requests() -> Iterator[Case]:
    for name in ("columns", "prompts", "seeds", "steps", "guidance", "size", "precision"):
        for label, value in _VALUES:
            if name in _MAY_BE_MISSING and value in (None, []):
                continue
            if (name, label) == ("prompts", "a null byte"):
                value = [value]
            yield Case(
                "request", "request", f"{name}: {label}", nothing,
                (json.dumps(_REQUEST | {name: value}) if value != 10**400 else _long(name),),
                (name.rstrip("s"), "column", "label", "text", "words"),
            )  # fmt: skip
    whole = json.dumps(_REQUEST)
    for label, text in {
        "cut": whole[:-5],
        "empty": "",
        "a list": "[]",
        "a number": "5",
        "an unknown name": json.dumps(_REQUEST | {"magic": 1}),
        "deep nesting": "[" * DEEP + "]" * DEEP,
        "a megabyte of letters": json.dumps(_REQUEST | {"negative": "x" * 1_000_000}),
    }.items():
        yield Case("request", "request", label, nothing, (text,), ())


def _long(name: str) -> str:
    """A request with an integer of 401 digits, which `json.dumps` writes and few readers take."""
    return json.dumps({key: value for key, value in _REQUEST.items() if key != name})[:-1] + (
        f', "{name}": {HUGE}}}'
    )
