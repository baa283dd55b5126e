"""A few of the kills that `evaluation/kill_test.py` does by the dozen, on a tiny model."""

import json
import runpy
import sys

import pytest
from support.places import TOP
from support.tiny import RARE_TOKEN

SCRIPT = TOP / "evaluation" / "kill_test.py"


@pytest.mark.slow
def test_a_training_killed_at_any_moment_goes_on_as_if_never_killed(
    forks, tiny_base, photo_folder, tmp_path, monkeypatch, capsys
):
    words = ["--kills", "6", "--fresh", "0", "--steps", "4", "--out", str(tmp_path / "kills.json")]
    words += ["--model", str(tiny_base), "--photos", str(photo_folder)]
    words += [f"--flags=--trigger {RARE_TOKEN} --unet.outer-rank 8 --unet.learning-rate 0.05"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    told = capsys.readouterr().out
    assert end.value.code == 0, told
    trials = json.loads((tmp_path / "kills.json").read_text())["trials"]
    assert len(trials) == 6
    assert not any(trial["problems"] for trial in trials)
    assert len({trial["hit"] for trial in trials} - {"nothing"}) >= 3, told
