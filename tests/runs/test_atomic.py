"""Atomic writes: what a killed process left half done is finished or removed, and nothing else."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nora_studio.errors import StudioError
from nora_studio.runs.atomic import discard, replacing, temporary_path, tidy, write_text
from nora_studio.runs.disk_errors import DiskError, writing
from nora_studio.runs.process_id import ProcessId, host_name
from nora_studio.runs.run_lock import RunLock
from nora_studio.runs.runs import Run


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def under_way(place: Path, pid: object, kind: str, content: str, host: str | None = None) -> Path:
    """A folder as a process leaves it when it is killed."""
    folder = place.with_name(f".{place.name}.{pid}@{host or host_name()}.{kind}")
    folder.mkdir()
    (folder / "file").write_text(content)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(folder: Path) -> str:
    return (folder / "file").read_text()


def test_a_swap_killed_between_its_renames_is_finished(tmp_path, dead):
    place = tmp_path / "adapter"
    under_way(place, dead, "old", "before")
    under_way(place, dead, "new", "after")
    tidy(tmp_path)
    assert names(tmp_path) == ["adapter"]
    assert read(place) == "after"


def test_a_swap_killed_after_its_renames_keeps_the_new_one(tmp_path, dead):
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "file").write_text("after")
    under_way(place, dead, "old", "before")
    tidy(tmp_path)
    assert names(tmp_path) == ["adapter"]
    assert read(place) == "after"


def test_a_folder_moved_away_without_a_replacement_is_moved_back(tmp_path, dead):
    place = tmp_path / "adapter"
    under_way(place, dead, "old", "before")
    tidy(tmp_path)
    assert read(place) == "before"


def test_half_written_and_half_deleted_files_are_removed(tmp_path, dead):
    under_way(tmp_path / "step-000002", dead, "new", "half")
    under_way(tmp_path / "step-000004", dead, "gone", "half")
    (tmp_path / f".config.toml.{dead}.new").write_text("as an earlier version named it")
    tidy(tmp_path)
    assert names(tmp_path) == []


def test_temporary_files_of_a_live_process_stay_unless_the_folder_is_exclusive(tmp_path):
    alive = under_way(tmp_path / "a", os.getpid(), "new", "mine")
    far = under_way(tmp_path / "b", os.getpid(), "new", "another machine's", "elsewhere")
    (tmp_path / ".hidden.new").write_text("a person's")
    tidy(tmp_path)
    assert names(tmp_path) == sorted([alive.name, far.name, ".hidden.new"])
    tidy(tmp_path, alone=True)
    assert names(tmp_path) == [".hidden.new"]


def test_a_reused_process_number_does_not_protect_temporary_files(tmp_path):
    left = under_way(tmp_path / "a", os.getpid(), "new", "of an earlier process")
    os.utime(left, (1, 1))  # long before this process began
    tidy(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_is_renamed_before_its_files_are_deleted(tmp_path):
    folder = tmp_path / "step-000002"
    folder.mkdir()
    (folder / "file").write_text("x")
    discard(folder)
    assert names(tmp_path) == []


def test_a_failed_replacement_leaves_the_old_folder(tmp_path):
    place = tmp_path / "adapter"
    for text in ("one", "two"):
        with replacing(place) as fresh:
            (fresh / "file").write_text(text)
    with pytest.raises(KeyboardInterrupt), replacing(place) as fresh:
        (fresh / "file").write_text("three")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["adapter"]
    assert read(place) == "two"


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "file").mkdir()  # nothing can take its place
    (tmp_path / "file" / "x").write_text("")
    with pytest.raises(OSError):
        write_text(tmp_path / "file", "text")
    assert names(tmp_path) == ["file"]


def test_temporary_names_hold_the_process_number(tmp_path):
    name = temporary_path(tmp_path / "a.png").name
    assert str(os.getpid()) in name and host_name() in name and name.endswith(".new")


def test_threads_that_write_one_file_at_a_time_share_no_temporary_name(tmp_path):
    file, texts = tmp_path / "draft.json", [str(number) * 2000 for number in range(8)]

    def write(text: str) -> None:
        for _ in range(40):
            write_text(file, text)
            assert file.read_text() in texts

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert names(tmp_path) == ["draft.json"]


def test_a_swap_killed_between_its_renames_takes_the_new_folder(tmp_path, dead):
    place = tmp_path / "adapter"
    under_way(place, f"{dead}-7", "old", "before")
    under_way(place, f"{dead}-7", "new", "after")
    tidy(tmp_path)
    assert names(tmp_path) == ["adapter"]
    assert read(place) == "after"


def test_a_failed_write_is_reported_in_one_line_with_its_remedy(tmp_path):
    for code, words in (
        (errno.ENOSPC, ("MiB free", "Free some space, then")),
        (errno.EROFS, ("Make it writable, then",)),
        (errno.EIO, ("Check the disk, then",)),
    ):
        with pytest.raises(DiskError) as refusal, writing("a checkpoint", tmp_path / "a" / "b"):
            raise OSError(code, os.strerror(code))
        assert "\n" not in str(refusal.value)
        for word in (*words, "a checkpoint", str(tmp_path), os.strerror(code)):
            assert word in str(refusal.value)
    with pytest.raises(StudioError, match="no disk's fault"), writing("a checkpoint", tmp_path):
        raise StudioError("no disk's fault")


def test_a_run_counts_as_alive_only_while_its_own_process_runs(tmp_path, dead):
    run = Run.create(tmp_path / "mug-nora", "steps = 5\n")
    assert run.is_alive()
    status = run.read_status()
    for change in ({"pid": dead}, {"started": status["started"] - 60}, {"state": "stopped"}):
        (run.folder / "status.json").write_text(json.dumps(status | change))
        assert not run.is_alive(), change
    (run.folder / "status.json").write_text("")  # a power cut
    assert run.read_status() == {}
    assert not run.is_alive()


def test_a_lock_excludes_other_processes_and_removes_an_unused_folder(tmp_path):
    first, second = RunLock(tmp_path / "run"), RunLock(tmp_path / "run")
    first.acquire()
    with pytest.raises(StudioError, match=f"is being trained by process {os.getpid()}"):
        second.acquire()
    second.release()  # of what it never had: nothing happens
    assert second.holder() == ProcessId.own()
    first.release(forget=True)
    assert not (tmp_path / "run").exists()
    second.acquire()
    second.release()
    assert names(tmp_path / "run") == [".lock"]
