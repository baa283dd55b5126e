"""The commands and the Python of the README run as they stand, outside of the checkout.

Small flags are appended, and what needs the network is exchanged for what is shipped.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from safetensors import safe_open
from support.places import TOP
from transformers import AutoModelForCausalLM

from nora_studio.mini.assets import embedded

pytestmark = pytest.mark.slow

EXEMPT = ("python3 -m venv",)
"""They install; `.ci/run` runs the one, and the other differs in its last word."""
EXCHANGED = {"stabilityai/stable-diffusion-xl-base-1.0": "embedded"}
"""Hub names, for what is shipped."""
SMALL = {
    "train": "--steps 2 --batch-size 1 --sample-steps 2 --evaluate-every 0 --no-cache",
    "compare": "--steps 2",
    "export": "",
}
"""Flags after each command, so that it takes seconds."""


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of a language; "" are shell commands."""
    text = (TOP / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for own, block in found if own == language]


def commands() -> list[list[str]]:
    """Every shell command but the exempt ones, without its comment, as words."""
    lines = "".join(blocks("")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if not line.startswith(EXEMPT)]


def started(words: list[str], folder) -> subprocess.Popen:
    """Start `nora-studio WORDS` in a folder, as an installed package would."""
    return subprocess.Popen(
        [sys.executable, "-m", "nora_studio.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_command_of_the_readme_is_known_here():
    assert len(commands()) >= 4
    for program, word, *_ in commands():
        assert program in ("nora-studio", ".venv/bin/nora-studio")
        assert word == "ui" or word in SMALL, f"{word}: add its small flags"


@pytest.mark.timeout(600)
def test_the_first_adapter_is_trained_compared_and_exported_as_the_readme_says(tmp_path):
    photos = embedded("subjects") / "sunrise-mug" / "photos"
    shutil.copytree(photos, tmp_path / "photos" / "my-mug")
    for _, word, *words in commands():
        if word == "ui":
            continue
        own = [EXCHANGED.get(one, one) for one in words] + shlex.split(SMALL[word])
        process = started([word, *own], tmp_path)
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{word}:\n{out}"
    assert (tmp_path / "comparison" / "grid.png").is_file()
    (exported,) = tmp_path.glob("*.safetensors")
    with safe_open(exported, "pt") as file:
        assert all(key.startswith("lora_") for key in file.keys())  # noqa: SIM118


def test_the_page_opens_as_the_readme_says(tmp_path):
    (words,) = (words for _, *words in commands() if words[0] == "ui")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = started([*words, "--port", str(port), "--no-open"], tmp_path)
    try:
        until, status = time.monotonic() + 120, None
        while status is None and time.monotonic() < until and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                    status = answer.status
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.5)
        assert status == 200
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode in (0, 130), out
    finally:
        process.kill()


def test_the_python_of_the_readme_saves_an_adapter_and_loads_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    base, model = (AutoModelForCausalLM.from_pretrained(embedded("mini-llama")) for _ in range(2))
    names: dict[str, Any] = {"base": base, "model": model}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "my-nora" / "adapter_model.safetensors").is_file()
    (config,) = names["model"].peft_config.values()
    assert (config.r, config.outer_rank) == (8, 64)
