"""What every test shares: no network, one thread, a tiny pipeline, photos, one finished run."""

import os
import signal
import socket
import sys

# Before torch and the Hub's client are imported, here and in every script that a test starts.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import tiny_sdxl
from support.trainer import Outcome, run_trainer, tiny_arguments

from nora_studio.cli import main as cli
from nora_studio.runs.launching import ForkServer, Process
from nora_studio.runs.scripts import TRAIN
from nora_studio.sdxl.models import load_sdxl

LOOPBACK = ("127.", "localhost", "::1")
LONGEST = (
    "test_interruptions", "test_processes", "test_training", "test_studio_pages",
    "test_planted_faults",
)  # fmt: skip
"""Files that take minutes; they begin first."""


@pytest.hookimpl(tryfirst=True)  # Before pytest's own, which chooses by markers.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Let no socket leave this machine."""
    usual = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

    def guarded(name):
        def connect(self, address):
            local = self.family == socket.AF_UNIX or str(address[0]).startswith(LOOPBACK)
            if not local:
                raise RuntimeError(f"a test tried to reach {address}; tests stay on this machine.")
            return usual[name](self, address)

        return connect

    for name in usual:
        setattr(socket.socket, name, guarded(name))
    yield
    for name, function in usual.items():
        setattr(socket.socket, name, function)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep nothing in the user's cache folder."""
    os.environ["NORA_STUDIO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Sums in one order, and no threads to fight over where tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """Folder of the tiny SDXL pipeline. Read only."""
    return tiny_sdxl(tmp_path_factory.mktemp("base") / "sdxl")


@pytest.fixture
def tiny_pipe(tiny_base):
    """The tiny pipeline, loaded afresh and bare."""
    return load_sdxl(str(tiny_base))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory) -> Path:
    """Three photos: a landscape JPEG, an upright PNG, and a JPEG that lies on its side by EXIF."""
    folder = tmp_path_factory.mktemp("photos") / "mug"
    folder.mkdir()
    random = np.random.default_rng(0)
    sizes = {"a.jpg": (48, 40), "b.png": (40, 64), "c.jpg": (72, 48)}
    for name, (width, height) in sizes.items():
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if name == "c.jpg":
            exif[0x0112] = 6  # Orientation: turn a quarter clockwise to stand upright.
        image.save(folder / name, exif=exif)
    return folder


@pytest.fixture(scope="session")
def forks():
    """Starts the trainer in processes of their own, without the seconds of importing."""
    return ForkServer().start


@pytest.fixture(scope="session")
def twins(tiny_base, photo_folder, tmp_path_factory) -> tuple[Path, Outcome]:
    """Folder with the finished runs mug-nora and mug-lora, and what the trainer said. Read only."""
    runs = tmp_path_factory.mktemp("twins")
    arguments = tiny_arguments(tiny_base, photo_folder, runs, method="nora,lora")
    return runs, run_trainer(*arguments)


@pytest.fixture(scope="module")
def browser():
    """A real browser; skips where there is none."""
    from support.studio_site import (
        chromium,  # Gradio takes seconds to import; most tests need none of it.
    )

    with chromium() as found:
        yield found


@pytest.fixture
def page(person):
    """The page of a module's own `person`."""
    return person.page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The studio, served; its jobs end with the module."""
    from support.studio_site import Site

    opened = Site(tmp_path_factory.mktemp("studio"))
    yield opened
    opened.end_jobs()
    opened.close()


@pytest.fixture
def studio(tmp_path):
    """A studio that nobody serves; its jobs end with the test."""
    from support.visiting import studio_in

    unserved = studio_in(tmp_path / "home")
    yield unserved
    for job in unserved.jobs._all():
        unserved.jobs.kill(job)


@pytest.fixture
def request_(studio):
    """What its handlers get of a browser."""
    from support.visiting import request_of

    return request_of(studio)


@pytest.fixture
def workspace(studio, request_, twins, photo_folder):
    """That browser's folder, with the finished twins in it."""
    from support.visiting import bring_runs

    place = studio.workspace(request_.headers)
    bring_runs(place, twins[0], photo_folder)
    return place


@pytest.fixture
def command(monkeypatch, capfd):
    """Type a command; give back its exit status, output and errors."""

    def type_in(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nora-studio", *map(str, words)])
        status: Any
        try:
            status = cli.main()
        except SystemExit as end:
            status = end.code
        told = capfd.readouterr()
        return status, told.out, told.err

    return type_in


@pytest.fixture
def sprung(tmp_path):
    """What a trap would make; it must not be there in the end."""
    file = tmp_path / "sprung"
    yield file
    assert not file.exists(), "a pickle was run"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty folder for the Hub client's copies."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def trainer(forks, tiny_base, photo_folder, tmp_path):
    """Start the trainer in a process of its own; what it says is in told.txt."""
    started: list[Process] = []

    def start(changes: dict, *more: str, method: str = "nora", told: Path | None = None) -> Process:
        words = tiny_arguments(tiny_base, photo_folder, tmp_path / "runs", method, changes)
        process = forks(TRAIN, [*words, *more], told or tmp_path / "told.txt", {})
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
