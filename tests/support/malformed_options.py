"""Malformed options files and numbers."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from support.malformed import DEEP, HUGE, PROMPT, Case, nothing

_TRAINERS = {
    "train": ('instance_dir = "photos/mug"', f'prompt = "{PROMPT}"', 'model = "nowhere/at-all"'),
    "clip_fewshot": ('dataset = "classes"', 'model = "nowhere/at-all"'),
    "llama_commonsense": ('data = "rows.json"', 'model = "nowhere/at-all"'),
}
_SPOILED_FILES: dict[str, bytes | str] = {
    "binary": bytes(range(256)) * 4,
    "UTF-16": "steps = 5\n".encode("utf-16"),
    "Latin-1": 'name = "caf\xe9"\n'.encode("latin-1"),
    "a null byte": b'name = "a\0b"\n',
    "no value": "steps =\n",
    "JSON": '{"steps": 5}\n',
    "YAML": "steps: 5\n",
    "a Windows path in plain quotes": 'output_dir = "C:\\temp\\new"\n',
    "a Windows path with a bad escape": 'output_dir = "C:\\Users\\me"\n',
    "an unknown option": "stepz = 5\n",
    "an option twice": "steps = 5\nsteps = 6\n",
    "a number as text": 'steps = "5"\n',
    "a fraction for a whole number": "steps = 5.5\n",
    "a switch for a number": "steps = true\n",
    "a number for a switch": "resume = 1\n",
    "a list for a number": "steps = [5]\n",
    "a table for a number": "[steps]\nx = 1\n",
    "a number for a table": "unet = 3\nvision = 3\ndecoder = 3\n",
    "a date": "steps = 2026-01-01\n",
    "not a number": "dropout = nan\n",
    "infinity": "dropout = inf\n",
    "a huge integer": f"steps = {HUGE}\n",
    "too many steps": f"steps = {10**30}\n",
    "a seed past 64 bits": f"seed = {2**70}\n",
    "a negative number of steps": "steps = -5\n",
    "deep nesting of lists": "override = " + "[" * DEEP + "]" * DEEP + "\n",
    "deep nesting of tables": "a = " + "{a = " * DEEP + "1" + "}" * DEEP + "\n",
    "deep dotted keys": ".".join(["a"] * DEEP) + " = 1\n",
    "a word out of a list": 'precision = "fp12"\n',
    "numbers in a list of text": "override = [1, 2]\n",
}


def options_files() -> Iterator[Case]:
    for command, needed in _TRAINERS.items():
        for label, text in _SPOILED_FILES.items():
            yield Case(
                command,
                "options file",
                label,
                partial(_write_options, needed, text),
                ("--config", "options.toml"),
                ("options.toml", "--steps", "--seed", "--dropout", "--resolution", "--precision"),
                never=("nowhere/at-all",),
            )
        for label, build in (("a folder", partial(os.mkdir, "options.toml")), ("missing", nothing)):
            yield Case(
                command, "options file", label, build, ("--config", "options.toml"),
                ("options.toml",),
            )  # fmt: skip


def _write_options(needed: tuple[str, ...], text: bytes | str) -> None:
    start = "\n".join(needed).encode() + b"\n"
    if isinstance(text, bytes):
        # What is no UTF-8 from its first byte on stands alone: nothing before it can be read.
        Path("options.toml").write_bytes(text if text[:1] in (b"\xff", b"\0") else start + text)
        return
    lines, tables = text, ""
    if text.startswith("["):
        lines, tables = "", text
    Path("options.toml").write_bytes(start + lines.encode() + tables.encode())


_NUMBERS = {
    "train": (
        ("--instance-dir", "photos/mug", "--prompt", PROMPT, "--model", "nowhere/at-all"),
        {
            "whole": (
                "steps", "batch-size", "accumulate", "resolution", "checkpoint-every",
                "keep-checkpoints", "log-every", "sample-steps", "unet.rank", "unet.outer-rank",
            ),
            "fraction": (
                "unet.learning-rate", "weight-decay", "dropout", "guidance", "ema", "snr-gamma",
                "prior-weight", "flip", "caption-dropout",
            ),
        },
    ),
    "clip_fewshot": (
        ("--dataset", "classes", "--model", "nowhere/at-all"),
        {"whole": ("steps", "shots", "batch-size"), "fraction": ("weight-decay", "dropout")},
    ),
    "llama_commonsense": (
        ("--data", "rows.json", "--model", "nowhere/at-all"),
        {"whole": ("steps", "cutoff", "batch-size"), "fraction": ("epochs", "dropout")},
    ),
    "generate": (
        ("--prompts", PROMPT, "--model", "nowhere/at-all"),
        {"whole": ("steps", "size", "seeds"), "fraction": ("guidance", "strength", "strengths")},
    ),
}  # fmt: skip
_WRONG = {
    "whole": ("nan", "1.5", "0x10", "", HUGE, str(10**30), "-7"),
    "fraction": ("nan", "inf", "-inf", "1e999", "abc", ""),
}


def numbers() -> Iterator[Case]:
    for command, (needed, options) in _NUMBERS.items():
        for kind, names in options.items():
            for name in names:
                for value in _WRONG[kind]:
                    shown = value if len(value) < 12 else f"{len(value)} digits"
                    yield Case(
                        command,
                        "number",
                        f"--{name} {shown!r}",
                        nothing,
                        (*needed, f"--{name}", value),
                        (f"--{name}", name.rpartition(".")[2]),
                        never=("nowhere/at-all",),
                    )
