"""Every request has limits, and what it writes must fit into the quota."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from support.jobs import SLEEP
from support.visiting import bring_runs, request_of

from nora_studio.adapters.methods.spec import AdapterSpec
from nora_studio.app.pages.train import _Handlers as Train
from nora_studio.app.pages.watch import _Handlers as Watch
from nora_studio.app.serve import UiOptions, open_studio
from nora_studio.app.server.limits import TRAINING_LIMITS, LimitCheck
from nora_studio.app.server.quota import reserve_room, used_bytes
from nora_studio.app.server.request_body import TooLarge
from nora_studio.app.server.resource_use import (
    WIDTHS,
    check_training,
    least_file_sizes,
    training_bytes,
    training_figures,
)
from nora_studio.app.server.training import PROGRAM
from nora_studio.app.server.upload_cache import ABANDONED_SECONDS, MAX_PENDING_BYTES, UploadCache
from nora_studio.app.server.workspace import Workspace
from nora_studio.errors import StudioError
from nora_studio.options.config import DreamboothOptions, PartOptions
from nora_studio.options.defaults import with_recommended
from nora_studio.sdxl.parameters import count

PLAIN = DreamboothOptions(instance_dir=Path("photos/mug"), prompt="a [V] mug", name="mug")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("--steps", {"steps": 20_001, "sample_every": 0, "checkpoint_every": 20_000}),
        ("--batch-size", {"batch_size": 17}),
        ("--accumulate", {"accumulate": 17, "batch_size": 17}),
        ("--resolution", {"resolution": 1032}),
        ("--crops", {"crop": "random", "crops": 33}),
        ("--sample-steps", {"sample_steps": 101}),
        ("--class-pictures", {"prior_weight": 1.0, "class_pictures": 401}),
        ("--keep-checkpoints", {"keep_checkpoints": 11}),
        ("--unet.rank", {"unet": PartOptions(rank=513, outer_rank=600)}),
        ("--unet.rank", {"override": ("nora.unet.rank=513", "nora.unet.outer_rank=600")}),
        ("--text-encoder-2.outer-rank", {"text_encoder_2": PartOptions(outer_rank=1025)}),
        ("methods at once", {"method": "nora,lora,dora,pissa,olora"}),
        ("samples of a run", {"steps": 1000, "sample_every": 1}),
        ("samples of a run", {"sample_prompts": tuple(map(str, range(501)))}),
        ("checkpoints written in a run", {"steps": 501, "checkpoint_every": 1}),
        ("measurements in a run", {"steps": 2001, "evaluate_every": 1}),
    ],
)
def test_values_above_a_limit_are_refused_by_name(name, changes):
    asked = with_recommended(replace(PLAIN, **changes))
    if name == "--accumulate":
        asked = replace(asked, batch_size=1)
    with pytest.raises(StudioError, match=f"^{name}: at most .* here; got"):
        check_training(asked, LimitCheck())
    check_training(asked, LimitCheck(is_owner=True))


def test_usual_trainings_are_below_every_limit_and_the_owners_limits_are_finite():
    for model in ("embedded", "a/sdxl"):
        asked = with_recommended(replace(PLAIN, model=model, method="nora,lora"))
        check_training(asked, LimitCheck())
        assert set(training_figures(asked)) == set(TRAINING_LIMITS)
        huge = replace(asked, steps=10**9)
        with pytest.raises(StudioError, match="at most 1,000,000 here"):
            check_training(huge, LimitCheck(is_owner=True))
    assert all(0 < visitor <= owner for visitor, owner in TRAINING_LIMITS.values())


@pytest.mark.parametrize("model", ["embedded", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_the_widths_for_size_estimates_are_those_of_the_models(model):
    for targets, widths in WIDTHS[model].items():
        found = count(model, AdapterSpec("lora", 1), (targets,))
        assert {one.part: one.trained for one in found} == widths


def test_the_bytes_of_a_training_follow_from_its_options():
    asked = with_recommended(replace(PLAIN, method="nora,lora", steps=100))
    # Measured on the embedded model: 2.39 MB and 7.19 MB, 15.2 MB and 16.4 MB (in float32).
    assert least_file_sizes(asked, "lora") == (2_334_720, 7_004_160)
    assert least_file_sizes(asked, "nora") == (7_004_160, 7_004_160)
    small, large = (training_bytes(replace(asked, checkpoint_every=10, keep_checkpoints=n))
                    for n in (1, 9))  # fmt: skip
    assert large - small == 8 * (7_004_160 + 7_004_160)
    assert training_bytes(asked, measured=1e9) > 1e9
    many = replace(asked, sample_every=1, sample_prompts=("a", "b"))
    assert training_bytes(many) - training_bytes(asked) > 300 * 64 * 128


@pytest.fixture
def shared(tmp_path):
    """A studio of which everybody's quota is small."""
    studio = open_studio(tmp_path / "small", UiOptions(data=tmp_path / "small", quota=0.02))
    yield studio
    for job in studio.jobs._all():
        studio.jobs.kill(job)


def test_no_button_starts_a_job_without_room_for_it(shared, twins, photo_folder):
    request = request_of(shared)
    workspace = shared.workspace(request.headers)
    bring_runs(workspace, twins[0], photo_folder)
    train, watch = Train(shared, []), Watch(shared)
    text = " ".join([*PROGRAM, "--instance-dir photos/mug --prompt 'a [V] mug' --name new"])
    full = f"{text} --method nora,lora"
    shared.jobs.submit(workspace, "tool", "x", SLEEP, "x")  # The line is taken: nothing starts.
    for press in (
        lambda: train.start(full, request),
        lambda: watch.resume("mug", request),
        lambda: watch.continue_longer("mug", 5, request),
    ):
        with pytest.raises(gr.Error, match=r"your folder holds .* of 21\.5 MB"):
            press()
    assert [job.kind for job in shared.jobs.list_jobs(workspace)] == ["tool"]
    assert not (workspace.photos / "new").exists()
    # One method of short pictures fits; a second one would, but for what the first will write.
    one = f"{text} --method lora --keep-checkpoints 1 --sample-every 0 --steps 1"
    train.measure(one, request)
    with pytest.raises(gr.Error, match="your jobs will add"):
        train.start(one, request)
    with pytest.raises(gr.Error, match="--steps: at most"):
        watch.continue_longer("mug", 999_999, request)


def test_of_two_simultaneous_uploads_that_do_not_fit_together_one_is_refused(tmp_path):
    workspace = Workspace.open(tmp_path, "0" * 32)
    begun, refused = threading.Barrier(2), []

    def store(name: str) -> None:
        begun.wait()
        try:
            with reserve_room(workspace, 600, quota=1000):
                time.sleep(0.05)  # As a copy takes its time.
                (workspace.adapters / name).write_bytes(b"x" * 600)
        except StudioError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=store, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1 and "your folder holds" in refused[0]
    assert used_bytes(workspace) == 600


def test_uploads_are_counted_only_while_they_arrive(tmp_path):
    cache = UploadCache(tmp_path)
    with cache.reserve("a", 1000) as first, cache.reserve("a", 1000) as second:
        first.add(300)
        second.expect(600)
        with pytest.raises(TooLarge, match=r"room for .+ Delete runs or images"):
            first.add(200)
        with cache.reserve("b", 1000) as others:
            others.expect(1000)
        second.add(600)
        with pytest.raises(TooLarge):
            second.add(200)
    with cache.reserve("a", 1000) as later:
        later.expect(1000)
    told = pytest.raises(TooLarge, match="Wait for your other uploads")
    with cache.reserve("a", 10**12) as huge, told:
        huge.expect(MAX_PENDING_BYTES + 1)
    assert cache._reserved == {}


def test_leftovers_of_a_cut_off_upload_are_removed(tmp_path):
    cache = UploadCache(tmp_path)
    left, fresh = cache.folder / "tmpleft", cache.folder / "tmpfresh"
    kept = cache.folder / "hash" / "mug.png"
    kept.parent.mkdir()
    long_ago = time.time() - ABANDONED_SECONDS - 1
    for file in (left, fresh, kept):
        file.write_bytes(b"x")
        if file is not fresh:
            os.utime(file, (long_ago, long_ago))
    cache.clear_old(3600)
    assert not left.exists() and fresh.exists() and kept.exists()
