"""The trainer in several processes through `accelerate launch`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.trainer import SCRIPT, only_unet, tiny_arguments

from nora_studio.runs.runs import Run

SHARDS = ["--use_fsdp", "--fsdp_version", "2"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flags", [["--multi_gpu"], SHARDS], ids=["ddp", "fsdp"])
def test_a_signal_to_one_process_stops_all_with_its_status(
    tiny_base, photo_folder, tmp_path, flags
):
    changes = only_unet({"steps": 3000, "log-every": 1, "sample-every": 0})
    arguments = tiny_arguments(
        tiny_base, photo_folder, tmp_path, changes=changes | {"checkpoint-every": 5000}
    )
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", *flags]
    launch += ["--num_processes", "2", "--main_process_port", "0"]
    launcher = subprocess.Popen(
        [*launch, str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"},
    )
    run = Run(tmp_path / "mug-nora")
    until = time.monotonic() + 400
    while time.monotonic() < until and not run.read_log() and launcher.poll() is None:
        time.sleep(0.05)
    os.kill(run.read_status()["pid"], signal.SIGTERM)
    out, err = launcher.communicate(timeout=150)
    assert "Stopped by SIGTERM" in out, err
    assert run.read_status()["state"] == "stopped"
    assert list(run.checkpoints()) == [run.read_status()["step"]]
    # The launcher ends the others once one has gone; each yet ends with its own status.
    assert err.count("exitcode  : 143") == 2, err
