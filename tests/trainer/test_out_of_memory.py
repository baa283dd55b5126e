"""Memory that runs out is one line with remedies, and a run that says it failed."""

from pathlib import Path

import pytest
import torch
from support.trainer import run_trainer, tiny_arguments, tiny_settings

from nora_studio.errors import StudioError
from nora_studio.runs.runs import Run
from nora_studio.tasks.dreambooth.task import DreamboothTask
from nora_studio.trainer.out_of_memory import is_out_of_memory, out_of_memory_in_one_line


def test_a_run_that_is_out_of_memory_has_failed_in_one_line(tiny_base, photo_folder, tmp_path):
    changes = {"sample-steps": 10**12}  # Terabytes of noise levels: no machine has them.
    outcome = run_trainer(*tiny_arguments(tiny_base, photo_folder, tmp_path, "nora,lora", changes))
    assert outcome.status == 2
    assert len(outcome.errors) == 1
    for word in ("out of memory", "--fit", "--gradient-checkpointing", "--base-bits"):
        assert word in outcome.errors[0]
    for method in ("nora", "lora"):
        status = Run(tmp_path / f"mug-{method}").read_status()
        assert status["state"] == "failed"
        assert "out of memory" in status["error"]


def test_what_was_reached_is_kept_and_a_finished_twin_stays_finished(
    tiny_base, photo_folder, tmp_path
):
    task = DreamboothTask()
    task.settings = tiny_settings(tiny_base, photo_folder, tmp_path, base_bits=4, batch_size=1)
    nora, lora = (Run.create(tmp_path / f"mug-{method}", "") for method in ("nora", "lora"))
    nora.set_status("finished", 6, 6)
    lora.set_status("running", 4, 6)

    def write(folder: Path) -> None:
        (folder / "state").write_text("kept")

    lora.save_checkpoint(4, write)
    runs, savings = {"nora": nora, "lora": lora}, task.memory_saving_tips()
    with (
        pytest.raises(StudioError, match="out of memory") as refusal,
        out_of_memory_in_one_line(runs, 6, savings),
    ):
        torch.empty(2**50)
    assert "\n" not in str(refusal.value)
    assert "--base-bits" not in str(refusal.value)  # in use already, as is the smallest batch
    assert "--batch-size" not in str(refusal.value)
    assert nora.read_status()["state"] == "finished"
    assert (lora.read_status()["state"], lora.read_status()["step"]) == ("failed", 4)
    assert list(lora.checkpoints()) == [4]


def test_a_gpus_memory_is_told_alike_and_other_errors_pass():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    with (
        pytest.raises(RuntimeError, match="shapes"),
        out_of_memory_in_one_line({}, 1, ["a smaller batch"]),
    ):
        raise RuntimeError("shapes cannot be multiplied")
