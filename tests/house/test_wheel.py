"""The wheel works outside a clone: its commands, its models, its subjects and its app."""

import os
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest
from support.places import TOP
from support.studio_site import free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder outside the clone, with the built wheel unpacked in its `site`."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=TOP, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder


def environment(installed: Path) -> dict[str, str]:
    """This one's, with the wheel before the clone."""
    own = {"PYTHONPATH": str(installed / "site"), "NORA_STUDIO_CACHE": str(installed / "cache")}
    return os.environ | own


def run(installed: Path, *words: str) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, *words], cwd=installed, env=environment(installed), text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_package_that_runs_is_the_wheels(installed):
    place = run(installed, "-c", "import nora_studio; print(nora_studio.__file__)").strip()
    assert Path(place) == installed / "site" / "nora_studio" / "__init__.py"


def test_a_shipped_subject_is_trained_compared_and_exported(installed):
    photos = installed / "site/nora_studio/_bundle/assets/subjects/sunrise-mug/photos"
    command = ("-m", "nora_studio.cli")
    run(
        installed, *command, "train", "--instance-dir", str(photos), "--prompt",
        "a photo of a [V] mug", "--name", "mug", "--steps", "30", "--sample-every", "0",
        "--sample-steps", "2", "--evaluate-every", "0", "--unet.learning-rate", "0.02",
    )  # fmt: skip
    assert (installed / "runs" / "mug-nora" / "adapter").is_dir()
    run(
        installed, *command, "compare", "--adapters", "runs/mug-nora", "--prompts",
        "a [V] mug in the snow", "--steps", "2",
    )  # fmt: skip
    assert (installed / "comparison" / "grid.png").is_file()
    run(installed, *command, "export", "runs/mug-nora", "--to", "kohya")
    assert list(installed.glob("*.safetensors"))


def test_accelerate_launches_the_command(installed):
    words = ("--num_processes", "1", "--cpu", "-m", "nora_studio.cli", "params")
    shown = run(installed, "-m", "accelerate.commands.launch", *words, "--model", "embedded")
    assert "nora" in shown.lower()


def test_the_app_answers(installed):
    port = free_port()
    command = [sys.executable, "-m", "nora_studio.cli", "ui", "--port", str(port), "--no-open"]
    app = subprocess.Popen(command, cwd=installed, env=environment(installed))
    try:
        page = b""
        until = time.monotonic() + 120
        while b"NoRA Studio" not in page and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    page = answer.read()
            except OSError:
                time.sleep(0.5)
        assert b"NoRA Studio" in page
    finally:
        app.terminate()
        app.wait(timeout=60)
