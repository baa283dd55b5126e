"""The best step outlives the newer ones, and a run that gets no better ends: exactly, and alone."""

import errno
import json
import signal
from pathlib import Path

import pytest
from support.loop import task_of, train_state_of
from support.trainer import tiny_options, tiny_subject

from nora_studio.adapters.files.adapter_file import open_adapter
from nora_studio.adapters.files.adapter_folders import load_adapter
from nora_studio.errors import StudioError
from nora_studio.runs.resuming import common_checkpoint
from nora_studio.runs.runs import Run
from nora_studio.runs.stop import StopRequest
from nora_studio.sdxl.models import load_sdxl, parts_of
from nora_studio.tasks.dreambooth.previews import generate_base_previews
from nora_studio.trainer.early_stop import EarlyStopping
from nora_studio.trainer.lifecycle import finish
from nora_studio.trainer.loop import Plan, train
from nora_studio.trainer.saving import restore

STEPS = 10
# Lowest after step 3; after step 5 twice above that by more than the noise.
TURNING = (0.9, 0.7, 0.5, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9)
# The same, two steps later.
LATER = (1.1, 1.0, *TURNING[:8])
FALLING = tuple(1 / step for step in range(1, STEPS + 1))


@pytest.fixture(scope="module")
def made(tiny_base, photo_folder, tmp_path_factory):
    """A subject, and what builds its training states in a folder of their own."""
    options = tiny_options(
        tiny_base,
        photo_folder,
        tmp_path_factory.mktemp("runs"),
        steps=STEPS,
        hold_out=1,
        early_stop="overfit",
        evaluate_every=1,
    )
    subject, batches = tiny_subject(options)
    begun = batches.state()

    def states(folder: Path, methods=("lora",)):
        batches.restore(begun)
        return [
            train_state_of(task_of(subject, batches, folder), method, Run(folder / f"mug-{method}"))
            for method in methods
        ]

    return subject, batches, states


def new_runs(folder: Path, methods=("lora",)) -> Path:
    for method in methods:
        Run.create(folder / f"mug-{method}", "")
    return folder


def go(batches, states, curves: dict, rule="overfit", start=0, stop_at=None, keep=1, every=100):
    """Train with measurements that are given, by label; a signal comes at a step."""
    plan = Plan(
        STEPS, 5, every, keep, 0, 1, 1.0, EarlyStopping(rule, 2), accumulate=1, capture=False
    )
    steps = {state.label: start for state in states}
    with StopRequest() as stop:

        def evaluate(state):
            steps[state.label] += 1
            if steps[state.label] == stop_at:
                stop.signal = signal.SIGINT
            return {"held_out_loss": curves[state.label][steps[state.label] - 1]}

        return train(states, batches, plan, stop, lambda state, step: None, evaluate, start)


def weights(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def overfit(made, tmp_path_factory):
    """A run that overfits after step 3, and its state as it ended."""
    _, batches, states = made
    folder = new_runs(tmp_path_factory.mktemp("overfit"))
    [state] = states(folder)
    assert go(batches, [state], {"lora": TURNING})
    return state.run, state


def test_a_run_that_overfits_ends_with_its_best_step_kept(overfit):
    run, state = overfit
    assert list(run.checkpoints()) == [3, 5]  # the best, and the newest one
    assert [row["step"] for row in run.read_log()] == [1, 2, 3, 4, 5]
    assert state.best == (3, 0.5)
    status = run.read_status()
    assert (status["best_step"], status["best_loss"]) == (3, 0.5)


def test_the_best_checkpoint_is_that_step_and_an_adapter(overfit, made, tmp_path, tiny_base):
    run, _ = overfit
    _, batches, states = made
    plain = states(new_runs(tmp_path))
    plain[0].keeps_best = False
    assert go(batches, plain, {"lora": FALLING}, rule="none", keep=9, every=3)
    best = run.checkpoints()[3]
    assert weights(best) == weights(plain[0].run.checkpoints()[3])
    assert load_adapter(best, parts_of(load_sdxl(str(tiny_base)))).steps == 3
    assert list(plain[0].run.checkpoints()) == [3, 6, 9, 10]  # none more without --keep-best


def test_a_run_that_was_stopped_ends_at_the_same_step_with_the_same_bytes(overfit, made, tmp_path):
    _, batches, states = made
    new_runs(tmp_path)
    first = states(tmp_path)
    assert not go(batches, first, {"lora": TURNING}, stop_at=4)
    assert list(first[0].run.checkpoints()) == [3, 4]
    again = states(tmp_path)
    start = common_checkpoint([again[0].run])
    restore(again, batches, start)
    assert go(batches, again, {"lora": TURNING}, start=start)
    run = again[0].run
    assert weights(run.folder) == weights(overfit[0].folder)
    assert again[0].curve == overfit[1].curve
    assert run.read_status()["best_step"] == 3

    resumed = states(tmp_path)  # an end is an end, also for who resumes it
    restore(resumed, batches, common_checkpoint([run]))
    before = weights(run.folder)
    assert go(batches, resumed, {"lora": TURNING}, start=5)
    assert weights(run.folder) == before
    assert len(run.read_log()) == 5


def test_twins_end_once_each_has_said_so(made, tmp_path):
    _, batches, states = made
    methods = ("lora", "nora")
    twins = states(new_runs(tmp_path, methods), methods)
    assert go(batches, twins, {"lora": TURNING, "nora": LATER})
    assert [state.best.step for state in twins] == [3, 5]
    # Each keeps its own best, and both the newest, to go on from.
    assert [list(state.run.checkpoints()) for state in twins] == [[3, 7], [5, 7]]
    reasons = EarlyStopping("overfit", 2).reasons(twins)
    assert "step 5" in reasons["lora"] and "step 7" in reasons["nora"]


@pytest.mark.slow
def test_a_twin_that_still_gets_better_keeps_both_going(made, tmp_path):
    _, batches, states = made
    methods = ("lora", "nora")
    twins = states(new_runs(tmp_path, methods), methods)
    assert go(batches, twins, {"lora": TURNING, "nora": FALLING})
    assert [list(state.run.checkpoints()) for state in twins] == [[3, 10], [10]]


def test_a_crash_between_two_twins_loses_no_step_in_common(made, tmp_path):
    _, batches, states = made
    methods = ("lora", "nora")
    twins = states(new_runs(tmp_path, methods), methods)
    write = twins[1].write_adapter

    def fail_at_three(folder: Path, step: int) -> None:
        if step == 3:
            raise OSError(errno.ENOSPC, "disk full")
        write(folder, step)

    twins[1].write_adapter = fail_at_three
    curves = {"lora": TURNING, "nora": TURNING}
    with pytest.raises(StudioError, match="disk full"):
        go(batches, twins, curves)
    assert [list(state.run.checkpoints()) for state in twins] == [[2, 3], [2]]
    again = states(tmp_path, methods)
    start = common_checkpoint([state.run for state in again])
    restore(again, batches, start)
    assert start == 2 and list(again[0].run.checkpoints()) == [2]  # 3 is made anew
    assert [row["step"] for row in again[0].run.read_log()] == [1, 2]
    assert go(batches, again, curves, start=start)
    assert [list(state.run.checkpoints()) for state in again] == [[3, 5], [3, 5]]


def test_a_best_whose_checkpoint_is_gone_gives_way_to_the_best_that_is_there(made, tmp_path):
    _, batches, states = made
    new_runs(tmp_path)
    first = states(tmp_path)
    assert not go(batches, first, {"lora": TURNING}, stop_at=4)
    again = states(tmp_path)
    restore(again, batches, 4)
    for file in (again[0].run.checkpoints()[3]).rglob("*"):
        if file.is_file():
            file.unlink()
    (again[0].run.folder / "checkpoints" / "step-000003").rename(tmp_path / "lost")
    assert again[0].best == (4, 0.8)
    assert go(batches, again, {"lora": TURNING}, start=4)
    assert again[0].best == (4, 0.8)
    assert list(again[0].run.checkpoints()) == [4, 5]


def test_the_final_adapter_is_the_best_and_proven_as_such(overfit, made):
    subject, batches, _ = made
    run, state = overfit
    generate_base_previews(subject, [state])
    task = task_of(subject, batches, run.folder.parent)
    line = finish(task, state, last=5, reasons={state.label: "overfit at step 5"})
    assert line is not None and "as of step 3" in line and "verified" in line
    best = run.checkpoints()[3]
    assert weights(run.adapter) == {
        name: content for name, content in weights(best).items() if "state" not in name
    }
    assert open_adapter(run.folder).card.steps == 3
    status = json.loads((run.folder / "status.json").read_text())
    expected = {"state": "finished", "step": 5, "steps": STEPS, "adapter_step": 3, "best_step": 3}
    assert status | expected | {"ended": "overfit at step 5"} == status
    drawn = sorted(file.name for file in run.samples.glob("step-*"))
    assert drawn == ["step-000003-01.png", "step-000005-01.png"]  # the last one, to compare
