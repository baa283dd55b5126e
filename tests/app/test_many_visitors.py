"""Twenty visitors at once, and hostile API calls: visitors are kept apart."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.studio_site import Site, wait_until

from nora_studio.app.server.drafts import DRAFT
from nora_studio.app.server.training import shown_command
from nora_studio.app.server.uploads import photos_of
from nora_studio.app.server.workspace import Workspace

PEOPLE = 20
SECRET_LENGTH = 43
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
NAVIGATION = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-site": "none"}


def somebody(site: Site, number: int) -> tuple[Client, Workspace]:
    """A program with a browser's secret of its own, and its folder."""
    cookie = f"{site.studio.auth.signer.browser_cookie}={chr(97 + number) * SECRET_LENGTH}"
    client = Client(
        site.url,
        headers={"Cookie": cookie},
        verbose=False,
        analytics_enabled=False,
        httpx_kwargs={"timeout": 60},
    )
    return client, site.studio.workspace({"cookie": cookie})


def photo_of(folder: Path, number: int) -> Path:
    """A picture that nobody else has."""
    pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), np.uint8)
    file = folder / f"photo-{number}.png"
    Image.fromarray(pixels).save(file)
    return file


def command(workspace: Workspace, tiny_base: Path, name: str, steps: int) -> str:
    words = ["--instance-dir", f"photos/{name}", "--prompt", "a [V] mug", "--name", name]
    words += ["--model", str(tiny_base), "--steps", str(steps), "--trigger", "sks"]
    words += ["--sample-every", "0", "--log-every", "1", "--evaluate-every", "0"]
    words += [
        "--text-encoder.no-train",
        "--text-encoder-2.no-train",
        "--unet.learning-rate",
        "1e-7",
    ]
    return shown_command(
        [*words, "--unet.rank", "2", "--unet.outer-rank", "4", "--no-score-samples"]
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_visitors_at_once_are_kept_apart_and_pages_stay_quick(site, tiny_base, tmp_path):
    trainer, folder = somebody(site, 0)
    trainer.predict(
        [handle_file(photo_of(tmp_path, 0))], "mug", "embedded", "", api_name="/add_photos"
    )
    trainer.predict(command(folder, tiny_base, "busy", 50_000), api_name="/start_training")
    job = site.studio.jobs.list_jobs(folder)[0]
    wait_until(lambda: site.studio.jobs.state(job) == "running", 60, "a training is at work")

    def visit(number: int) -> tuple[str, float]:
        client, own = somebody(site, number)
        file = photo_of(tmp_path, number)
        _, rows, *_ = client.predict(
            [handle_file(file)], f"thing{number}", "embedded", "", api_name="/add_photos"
        )
        began = time.monotonic()
        with httpx.Client(base_url=site.url, timeout=30) as browser:
            assert browser.get("/", headers=NAVIGATION).status_code == 200
        seconds = time.monotonic() - began
        (stored,) = photos_of(own, DRAFT)
        assert stored.file.read_bytes() == file.read_bytes()
        return rows, seconds

    numbers = list(range(1, PEOPLE + 1))
    with ThreadPoolExecutor(PEOPLE) as crowd:
        found = dict(zip(numbers, crowd.map(visit, numbers), strict=True))
    for number, (rows, _) in found.items():
        assert f"photo-{number}.png" in rows
        assert not any(f"photo-{other}.png" in rows for other in numbers if other != number)
    assert site.studio.jobs.state(job) == "running", site.studio.jobs.tail(job)
    # While all twenty upload at once, too.
    times = sorted(seconds for _, seconds in found.values())
    print(f"a page took {times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s at most")
    quiet = time.monotonic()
    assert httpx.get(site.url, headers=NAVIGATION).status_code == 200
    assert time.monotonic() - quiet < 1.0
    site.end_jobs()


@pytest.fixture(scope="module")
def program(site):
    return somebody(site, 25)


NASTY = st.one_of(
    st.text(max_size=200),
    st.sampled_from(
        ["../../etc/passwd", "/etc/passwd", "a; rm -rf /", "$(id)", "\x00", "--help", "-", "..",
         "--tyro-write-completion", "bash", "~/x",
         "photos/../../..", "<script>alert(1)</script>", "nora-studio train --config /etc/passwd"]
    ),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=SLOW)
@given(words=st.lists(NASTY, max_size=6), is_train=st.booleans())
def test_no_made_up_command_is_started(site, program, words, is_train):
    client, folder = program
    text = " ".join(["nora-studio train" if is_train else "", *words])
    for name in ("/start_training", "/measure"):
        with pytest.raises(AppError) as refusal:
            client.predict(text, api_name=name)
        assert str(site.home) not in str(refusal.value)
        assert "Traceback" not in str(refusal.value)
    assert site.studio.jobs.list_jobs(folder) == []


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=SLOW)
@given(name=NASTY, steps=st.one_of(st.floats(allow_nan=False), st.none(), NASTY))
def test_any_name_of_a_training_finds_only_the_visitors_own(site, program, name, steps):
    client, folder = program
    for call, arguments in (
        ("/stop_training", [name]),
        ("/resume_training", [name]),
        ("/continue_training", [name, steps]),
    ):
        with pytest.raises((AppError, ValueError)) as refusal:
            client.predict(*arguments, api_name=call)
        assert str(site.home) not in str(refusal.value)
    assert site.studio.jobs.list_jobs(folder) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--instance-dir /etc", "folder of your own"),
        ("--instance-dir photos/../../../x", "folder of your own"),
        ("--output-dir /elsewhere/x", "output-dir"),
        ("--class-dir /etc --prior-weight 1", "folder of your own"),
        ("--config /etc/passwd", "--config"),
        ("--tracker wandb", "--tracker"),
        ("--preflight", "--preflight"),
        ("--preflight-out /elsewhere/x", "preflight"),
        ("--resume", "--resume"),
        ("--name ../x", "name"),
        ("--model /no/such/folder", "--model"),
        ("--help", "--help"),
        ("--steps -3", "--steps"),
        ("--nonsense 1", "nonsense"),
        ("--tyro-write-completion bash ./x", "is not an option of the trainer"),
        ("--instance-dir '~/x'", "folder of your own"),
        ("--class-dir '~root' --prior-weight 1", "folder of your own"),
        ("--name con", "--name"),
    ],
)
def test_options_that_reach_outside_are_refused_in_one_sentence(site, program, flags, words):
    client, folder = program
    text = f"nora-studio train --instance-dir photos/mug --prompt 'a [V] mug' --name mug {flags}"
    with pytest.raises(AppError) as refusal:
        client.predict(text, api_name="/start_training")
    told = str(refusal.value)
    assert words in told and "\n" not in told.strip()
    assert site.studio.jobs.list_jobs(folder) == []


def test_a_path_on_the_server_is_not_an_upload(site, program, tmp_path):
    client, folder = program
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    with httpx.Client(base_url=site.url, timeout=30) as browser:
        browser.headers["cookie"] = client.headers["Cookie"]
        for path in (str(secret), "/etc/hostname", str(site.home / "secret")):
            data = [[{"path": path, "meta": {"_type": "gradio.FileData"}}], "mug", "embedded", ""]
            begun = browser.post("/gradio_api/call/add_photos", json={"data": data})
            if begun.status_code == 200:
                event = json.loads(begun.text)["event_id"]
                told = browser.get(f"/gradio_api/call/add_photos/{event}").text
                assert "event: error" in told and str(site.home) not in told
    assert photos_of(folder, DRAFT) == []
