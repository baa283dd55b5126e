"""Image jobs are stored in the visitor's folder, take turns, are limited, and survive restarts."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from support.tiny import RARE_TOKEN, tiny_adapter, tiny_sdxl

from nora_studio.app.pages.comparison_view import image_job_view
from nora_studio.app.server.image_jobs import new_image_job, write_image_job
from nora_studio.app.server.image_queue import ImageQueue
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.runs.process_id import process_start_time
from nora_studio.sdxl.models import load_sdxl
from nora_studio.sdxl.recipes import read_recipe

PROMPT = "a photo of a [V] mug"
SECONDS = 120.0


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


@pytest.fixture(scope="module")
def home(base, tmp_path_factory) -> Path:
    folder, pipe = tmp_path_factory.mktemp("studio"), load_sdxl(str(base))
    for visitor in "ab":
        runs = Workspace.open(folder, visitor * 32).runs
        tiny_adapter(runs / "mug-nora" / "adapter", pipe, "nora")
    return folder


@pytest.fixture(scope="module")
def image_queue(home):
    """One server for all tests here: it takes seconds to start."""
    image_queue = ImageQueue(home)
    yield image_queue
    image_queue.close()


@pytest.fixture
def visitor(home) -> Workspace:
    return Workspace.open(home, "a" * 32)


@pytest.fixture
def other(home) -> Workspace:
    return Workspace.open(home, "b" * 32)


@pytest.fixture
def asked(base):
    def make(**changes) -> dict:
        columns = [
            {"label": "base"},
            {"label": "NoRA", "adapters": [{"path": "runs/mug-nora", "strength": 0.8}]},
        ]
        small = {"model": str(base), "columns": columns, "prompts": [PROMPT], "steps": 1}
        return {**small, "guidance": 2.0, **changes}

    return make


def until(is_so, seconds=SECONDS):
    """Wait for something, and give it back."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
    return found


def ended(image_queue, workspace, name):
    return until(lambda: (s := image_queue.read(workspace, name)).is_under_way is False and s)


@pytest.mark.slow
def test_a_job_arrives_image_by_image_and_outlives_the_server(
    image_queue, home, visitor, other, asked
):
    name = image_queue.submit(visitor, asked(seeds=[0, 1]), {"layout": "columns"})
    assert image_queue.read(visitor, name).is_under_way
    job = ended(image_queue, visitor, name)
    assert (job.state, job.error, job.view) == ("finished", None, {"layout": "columns"})
    assert sorted(job.files) == [(c, 0, s) for c in (0, 1) for s in (0, 1)]
    assert job.words == {1: RARE_TOKEN}
    recipe = read_recipe(job.file(visitor, (1, 0, 1)))
    assert (recipe.adapter, recipe.strength, recipe.seed) == ("mug-nora", 0.8, 1)
    assert ImageQueue(home).read(visitor, name) == job
    assert [one.id for one in image_queue.list(visitor)][:1] == [name]
    with pytest.raises(StudioError, match="no such image job"):
        image_queue.read(other, name)


@pytest.mark.slow
def test_a_job_without_a_judge_is_generated_and_says_why(image_queue, visitor, asked):
    job = ended(image_queue, visitor, image_queue.submit(visitor, asked(score=True)))
    assert (job.state, job.scores, job.judge, len(job.files)) == ("finished", None, None, 2)
    page = image_job_view(job, visitor)
    assert "not scored" in page and "another base" in page and "--clip" in page
    with pytest.raises(StudioError, match="the judge 'x' is not among"):
        new_image_job(visitor, asked(score=True, clip="x"), is_allowed=lambda name: name != "x")


def test_the_token_doctor_uses_the_same_process(image_queue, base):
    reading = image_queue.tokenize_prompt(PROMPT, str(base), RARE_TOKEN)
    assert reading["text"] == f"a photo of a {RARE_TOKEN} mug"
    with pytest.raises(StudioError, match="no such directory exists"):
        image_queue.tokenize_prompt(PROMPT, "nowhere")


@pytest.mark.slow
def test_a_cancelled_job_keeps_its_images_and_can_be_resumed(image_queue, visitor, asked):
    name = image_queue.submit(visitor, asked(seeds=list(range(100))))
    until(lambda: image_queue.read(visitor, name).files)
    with pytest.raises(StudioError, match="has not ended yet"):
        image_queue.delete(visitor, name)
    image_queue.cancel(visitor, name)
    job = ended(image_queue, visitor, name)
    assert job.state == "cancelled"
    assert 0 < len(job.files) < 200
    first = job.file(visitor, (0, 0, 0))
    changed = first.stat().st_mtime_ns
    image_queue.resume(visitor, name)
    job = ended(image_queue, visitor, name)
    assert (job.state, len(job.files)) == ("finished", 200)
    assert first.stat().st_mtime_ns == changed
    image_queue.delete(visitor, name)
    assert not job.folder(visitor).exists()


@pytest.mark.slow
def test_a_killed_process_fails_its_job_and_the_next_job_starts_another(
    image_queue, visitor, asked
):
    name = image_queue.submit(visitor, asked(seeds=list(range(100, 190))))
    until(lambda: image_queue.read(visitor, name).files)
    os.kill(image_queue.process_id, signal.SIGKILL)
    job = ended(image_queue, visitor, name)
    assert job.state == "failed"
    assert "killed by SIGKILL" in job.error
    assert ended(image_queue, visitor, image_queue.submit(visitor, asked())).state == "finished"
    os.kill(image_queue.process_id, signal.SIGKILL)  # in its sleep
    until(lambda: image_queue.process_id is None)
    assert ended(image_queue, visitor, image_queue.submit(visitor, asked())).state == "finished"


def test_an_error_of_one_job_is_reported_and_others_continue(image_queue, visitor, asked):
    columns = [{"label": "NoRA", "adapters": [{"path": "runs/mug-nora"}]}]
    bad = image_queue.submit(visitor, asked(model=None, columns=columns))
    good = image_queue.submit(visitor, asked())
    assert "--model" in ended(image_queue, visitor, bad).error
    assert ended(image_queue, visitor, good).state == "finished"


def test_visitors_take_turns_and_see_their_place_in_the_queue(image_queue, visitor, other, asked):
    many = [
        image_queue.submit(visitor, asked(seeds=list(range(n, n + 9)))) for n in (200, 210, 220)
    ]
    late = image_queue.submit(other, asked(seeds=[230]))
    assert image_queue.read(visitor, many[2]).waits_for == "Waiting for 3 other image jobs."
    image_queue.cancel(visitor, many[2])
    assert image_queue.read(visitor, many[2]).state == "cancelled"
    ended(image_queue, other, late)
    assert image_queue.read(visitor, many[1]).is_under_way
    ended(image_queue, visitor, many[1])


@pytest.mark.slow
def test_on_a_gpu_a_job_waits_for_the_training_and_frees_its_memory(home, visitor, asked):
    training = [True]
    # The real server, only that it says to be on a GPU.
    server = f"{sys.executable} -m nora_studio.cli draw-server"
    on_gpu = ["bash", "-c", f"""{server} | sed -u 's/"device": "cpu"/"device": "cuda"/'"""]
    image_queue = ImageQueue(home, is_device_busy=lambda: training[0], command=on_gpu)
    try:
        name = image_queue.submit(visitor, asked(seeds=[300]))
        until(lambda: "a training is using it" in (image_queue.read(visitor, name).waits_for or ""))
        training[0] = False
        assert ended(image_queue, visitor, name).state == "finished"
        pid = image_queue.process_id
        assert pid is not None
        training[0] = True
        until(lambda: image_queue.process_id is None and process_start_time(pid) is None)
    finally:
        image_queue.close()


def test_jobs_of_a_dead_server_are_interrupted(home, visitor, asked):
    job = new_image_job(visitor, asked())
    write_image_job(visitor, job)
    assert ImageQueue(home).read(visitor, job.id).state == "interrupted"
    (job.folder(visitor) / "drawing.json").write_text('{"id": 3')
    with pytest.raises(StudioError, match="damaged"):
        ImageQueue(home).read(visitor, job.id)
    assert job.id not in [one.id for one in ImageQueue(home).list(visitor)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"seeds": list(range(101))}, "at most 200 images"),
        ({"size": 2048}, "size: at most 1536"),
        ({"steps": 151}, "steps: at most 150"),
        ({"prompts": ["a" * 501]}, "at most 500 characters"),
        ({"columns": [{"label": "x" * 81}]}, "label"),
        ({"columns": [{"label": "x", "adapters": [{"path": "runs/mug-nora"}] * 7}]}, "at once"),
        ({"columns": [{"label": "x", "adapters": [{"path": "runs/none"}]}]}, "no adapter"),
        ({"columns": [{"label": "x", "adapters": [{"path": "runs"}]}]}, "no adapter"),
        ({"columns": [{"label": "x", "adapters": [{"path": "/etc/passwd"}]}]}, "no adapter"),
        ({"columns": [{"label": "x", "adapters": [{"path": "runs/../../b"}]}]}, "no adapter"),
        ({"references": ["../../secret.png"]}, "no file"),
        ({"references": ["/etc/hostname"]}, "no file"),
    ],
)
def test_excessive_requests_and_foreign_files_are_refused(home, visitor, asked, change, word):
    with pytest.raises(StudioError, match=word):
        ImageQueue(home).submit(visitor, asked(**change))


def test_an_adapter_behind_a_link_to_another_visitor_is_refused(home, visitor, other, asked):
    (visitor.runs / "theirs").symlink_to(other.runs / "mug-nora")
    with pytest.raises(StudioError, match="no adapter"):
        columns = [{"label": "x", "adapters": [{"path": "runs/theirs"}]}]
        ImageQueue(home).submit(visitor, asked(columns=columns))
