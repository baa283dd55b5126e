"""The trainer in several processes: the same results as one, common stops and common failures."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.several import start_pair, together
from support.trainer import only_unet, run_trainer, tensors_of, tiny_arguments

from nora_studio.errors import StudioError
from nora_studio.runs import processes
from nora_studio.runs.runs import Run

METHODS = ("nora", "lora")
EVERYTHING = {
    "steps": 4,
    "hold-out": 1,
    "evaluate-every": 2,
    "buckets": True,
    "crop": "random",
    "crops": 2,
    "flip": 0.5,
    "caption-dropout": 0.3,
    "mask-floor": 0.3,
    "noise-offset": 0.05,
    "weighting": "min-snr",
    "prior-weight": 1,
    "class-pictures": 2,
}
QUICK = {"sample-every": 0, "sample-steps": 1, "log-every": 1}


@pytest.fixture(scope="module")
def told_photos(tmp_path_factory) -> Path:
    """Five photos of two shapes, two with captions, one with a mask."""
    folder = tmp_path_factory.mktemp("told") / "mug"
    folder.mkdir()
    random = np.random.default_rng(1)
    for number, size in enumerate([(48, 32), (32, 48), (48, 32), (32, 48), (40, 40)]):
        noise = random.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize(size).save(folder / f"{number}.png")
    (folder / "1.txt").write_text("a photo of a [V] mug in the snow")
    (folder / "2.txt").write_text("a photo of a [V] mug on the beach")
    mask = Image.new("L", (48, 32))
    mask.paste(255, (8, 8, 40, 32))
    mask.save(folder / "0.mask.png")
    return folder


@pytest.fixture(scope="module")
def alone_and_together(tiny_base, told_photos, tmp_path_factory):
    """The same twins by one process and by two, with everything on, and what the two said."""
    folder = tmp_path_factory.mktemp("shared")
    commands = {
        name: tiny_arguments(tiny_base, told_photos, folder / name, "nora,lora", EVERYTHING)
        for name in ("alone", "together")
    }
    outcome = run_trainer(*commands["alone"])
    assert outcome.status == 0, outcome.err
    outcomes = together(folder / "told", commands["together"])
    assert [one.status for one in outcomes] == [0, 0], outcomes
    return folder, outcomes


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_the_same_weights_as_one(alone_and_together, method):
    alone, pair = (alone_and_together[0] / n / f"mug-{method}" for n in ("alone", "together"))
    moved = 0.0
    expected = states(alone / "adapter")
    for name, tensor in states(pair / "adapter").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-3, msg=name)
        moved = max(moved, tensor.abs().max().item())
    assert moved > 0.05
    rows = [Run.open(run).read_log() for run in (pair, alone)]
    assert [row["step"] for row in rows[0]] == [0, 2, 4]
    for row, reference in zip(*rows, strict=True):
        assert row.keys() == reference.keys()
        for name in {"loss", "held_out_loss", "gradient_norm"} & row.keys():
            assert row[name] == pytest.approx(reference[name], rel=1e-4), (name, row["step"])
    assert Run.open(pair).read_status()["state"] == "finished"
    for folder in ("samples", "checkpoints"):
        names = [sorted(file.name for file in (run / folder).iterdir()) for run in (pair, alone)]
        assert names[0] == names[1]


@pytest.mark.slow
def test_ranks_are_dropped_and_pruned_alike_in_one_process_and_in_two(
    tiny_base, photo_folder, tmp_path
):
    changes = only_unet({**QUICK, "steps": 8, "checkpoint-every": 8, "unet.rank": 4})
    # At such a rate AdaLoRA is seen to learn in so few steps, and DyLoRA does not enlarge rounding.
    changes["override"] = "adalora.unet.learning_rate=0.1"
    commands = [
        tiny_arguments(tiny_base, photo_folder, tmp_path / name, "dylora,adalora", changes)
        for name in ("alone", "together")
    ]
    assert run_trainer(*commands[0]).status == 0
    assert [one.status for one in together(tmp_path / "told", commands[1])] == [0, 0]
    for method in ("dylora", "adalora"):
        alone, pair = (tmp_path / name / f"mug-{method}" for name in ("alone", "together"))
        last = "checkpoints/step-000008/state.safetensors"
        expected, found = load_file(alone / last), load_file(pair / last)
        rules = [name for name in expected if name.startswith("rules.")]
        assert rules
        patterns = [expected[name] for name in rules if "rank_pattern" in name]
        assert any(not kept.all() for kept in patterns) == (method == "adalora")
        for name in rules:
            if expected[name].is_floating_point():
                torch.testing.assert_close(found[name], expected[name], rtol=1e-2, atol=1e-5)
            else:  # Ranks kept, or the generator they are drawn from.
                assert torch.equal(found[name], expected[name]), name
        losses = [[row["loss"] for row in Run.open(run).read_log()] for run in (pair, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def states(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of an adapter."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {f"{f.parent.name}.{n}": t for f in files for n, t in load_file(f).items()}


def test_only_the_main_process_prints(alone_and_together):
    said, silent = alone_and_together[1]
    assert said.out.count("verified in a fresh pipeline") == 2
    assert silent.out == ""


def test_the_log_counts_all_processes(alone_and_together):
    rows = Run.open(alone_and_together[0] / "together" / "mug-nora").read_log()[1:]
    for row in rows:
        # Two photos and as many class pictures a step, over both processes.
        assert row["images_per_second"] * row["seconds_per_step"] == pytest.approx(4, rel=0.02)


def test_a_batch_that_cannot_be_shared_is_refused_once(tiny_base, photo_folder, tmp_path):
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path / "r", changes={"batch-size": 3})
    said, silent = together(tmp_path / "told", arguments)
    assert (said.status, silent.status) == (2, 2)
    assert said.errors == [
        "error: --batch-size: expected a multiple of 2, an equal share for each of 2 processes; "
        "got 3. Set it to 2 or 4."
    ]
    assert "Loading" not in said.out
    assert silent.err == ""
    assert not (tmp_path / "r").exists()


def test_shares_are_counted_with_micro_batches():
    processes.check_shares(6, 3)
    with pytest.raises(StudioError, match=r"4 pieces \(--accumulate\); got 6. Set it to 4 or 8"):
        processes.check_shares(6, 4)
    with pytest.raises(StudioError, match=r"got 2. Set it to 4\."):
        processes.check_shares(2, 4)


def wait_for_line(run: Run, step: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and not any(row["step"] >= step for row in run.read_log()):
        time.sleep(0.005)


def slow_to_end(rank: int) -> None:
    """The main process takes a while to write its last status."""
    from nora_studio.runs.runs import Run

    write = Run.set_status

    def slow(self, state: str, step: int, steps: int, **values) -> None:
        if state == "stopped":
            time.sleep(2)
        write(self, state, step, steps, **values)

    if rank == 0:
        Run.set_status = slow


@pytest.mark.parametrize("asked", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_both_stop_after_the_same_step_if_one_is_asked_and_go_on_to_the_bit(
    tiny_base, photo_folder, tmp_path, asked
):
    changes = only_unet({**QUICK, "steps": 12, "checkpoint-every": 50, "dropout": 0.3})
    folders = {}
    for name in ("whole", "halves") if asked else ("halves",):
        arguments = tiny_arguments(tiny_base, photo_folder, tmp_path / name, changes=changes)
        run = folders[name] = Run(tmp_path / name / "mug-nora")
        if name == "whole":
            assert [one.status for one in together(tmp_path / "told", arguments)] == [0, 0]
            continue
        pair = start_pair(tmp_path / "stopped", arguments, slow_to_end)
        wait_for_line(run, 2)
        number = signal.SIGINT if asked else signal.SIGTERM
        os.kill(pair.processes[asked].pid, number)
        # As a launcher does: once one has gone, the other is told to go, now for the second time.
        pair.processes[1].join(120)
        if pair.processes[0].is_alive():
            os.kill(pair.processes[0].pid, signal.SIGTERM)
        assert pair.wait() == [128 + number] * 2, pair.said
        status = run.read_status()
        assert status["state"] == "stopped"
        assert status["pid"] == pair.processes[0].pid
        assert list(run.checkpoints()) == [status["step"]]
        assert run.read_log()[-1]["step"] == status["step"] < 12
    if not asked:
        return
    state = load_file(run.checkpoints()[status["step"]] / "state.safetensors")
    assert not torch.equal(state["generator.cpu"], state["generator.cpu.1"])
    outcomes = together(tmp_path / "again", [*arguments, "--resume"])
    assert [one.status for one in outcomes] == [0, 0], outcomes
    last = "checkpoints/step-000012"
    whole, halves = folders["whole"].folder, folders["halves"].folder
    assert tensors_of(halves / last) == tensors_of(whole / last)
    assert [row["step"] for row in folders["halves"].read_log()] == list(range(1, 13))
    losses = [[row["loss"] for row in one.read_log()] for one in folders.values()]
    assert losses[0] == losses[1]


def test_a_nan_loss_in_one_process_ends_both(tiny_base, photo_folder, tmp_path):
    def spoil(rank: int) -> None:
        """Photos that turn to NaN in the second process alone."""
        from nora_studio.sdxl.cache import LatentCache

        init = LatentCache.__init__

        def broken(self, *values, **named):
            init(self, *values, **named)
            self.mean.fill_(float("nan"))

        if rank == 1:
            LatentCache.__init__ = broken

    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path / "r", changes=only_unet({**QUICK, "steps": 4})
    )
    pair = start_pair(tmp_path / "told", arguments, spoil)
    assert pair.wait() == [2, 2], pair.said
    assert "the loss is not finite at step 1" in pair.said[0].err
    assert pair.said[1].errors == []
    assert Run(tmp_path / "r" / "mug-nora").read_status()["state"] == "failed"


def test_a_sample_that_cannot_be_written_ends_both(tiny_base, photo_folder, tmp_path):
    in_the_way = tmp_path / "r" / "mug-nora" / "samples" / "step-000001-01.png"
    in_the_way.mkdir(parents=True)
    (in_the_way / "file").touch()
    changes = only_unet({**QUICK, "steps": 3, "sample-every": 1})
    pair = start_pair(
        tmp_path / "told", tiny_arguments(tiny_base, photo_folder, tmp_path / "r", changes=changes)
    )
    assert pair.wait() == [2, 2], pair.said
    assert "cannot be written (an image)" in pair.said[0].err
    assert "Traceback" not in pair.said[1].err


def test_no_process_waits_for_one_that_was_killed(tiny_base, photo_folder, tmp_path):
    changes = only_unet({**QUICK, "steps": 3000, "checkpoint-every": 5000})
    arguments = tiny_arguments(tiny_base, photo_folder, tmp_path / "r", changes=changes)
    pair = start_pair(tmp_path / "told", arguments)
    wait_for_line(Run(tmp_path / "r" / "mug-nora"), 2)
    os.kill(pair.processes[1].pid, signal.SIGKILL)
    left, killed = pair.wait()
    assert killed == -signal.SIGKILL
    assert left == 1, pair.said[0]


def test_one_process_where_two_were_asked_for_is_refused(monkeypatch):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    processes.join()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(StudioError, match="torchrun"):
        processes.join()
