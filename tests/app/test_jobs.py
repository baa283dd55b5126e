"""Jobs run in turn, outlive the server, stop when asked, and belong to one visitor."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support.jobs import SLEEP, begin, visitor, wait_for

from nora_studio.app.server import job_process
from nora_studio.app.server.job import Job
from nora_studio.app.server.jobs import PROJECT, WAITING_LIMIT, Jobs
from nora_studio.errors import StudioError

QUICK = [sys.executable, "-S", "-c", "import os; print('in', os.path.basename(os.getcwd()))"]
PRINT = [sys.executable, "-S", "-c", "import sys; print(*sys.argv[1:])"]
FAILS = [sys.executable, "-S", "-c", "import sys; sys.exit('error: the disk is full')"]
PATIENT = [
    sys.executable, "-S", "-c",
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
    "print('ready', flush=True)\ntime.sleep(60)",
]  # fmt: skip


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    jobs = Jobs(tmp_path)
    for job in jobs._all():
        jobs.kill(job)


def wait_for_words(jobs: Jobs, job: Job, words: str) -> None:
    until = time.monotonic() + 20
    while words not in jobs.tail(job) and time.monotonic() < until:
        time.sleep(0.02)
    assert words in jobs.tail(job)


def test_a_job_runs_in_its_visitors_folder_and_its_output_is_kept(home):
    jobs, workspace = Jobs(home), visitor(home)
    job = begin(jobs, workspace, QUICK)
    wait_for(jobs, job, "finished")
    assert jobs.tail(job) == [f"in {workspace.folder.name}"]
    assert jobs.status(job) == 0


def test_the_servers_folders_are_removed_from_a_jobs_output(home):
    jobs, workspace = Jobs(home), visitor(home)
    folders = (workspace.folder / "runs", home / "jobs", PROJECT / "training")
    job = begin(jobs, workspace, [*PRINT, *map(str, folders)])
    wait_for(jobs, job, "finished")
    assert jobs.tail(job) == ["runs jobs training"]


def test_a_failed_job_keeps_its_last_output(home):
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), FAILS)
    wait_for(jobs, job, "failed")
    assert jobs.status(job) == 1
    assert jobs.tail(job) == ["error: the disk is full"]


def test_jobs_with_a_device_run_one_at_a_time(home):
    jobs, workspace = Jobs(home), visitor(home)
    first, second, third = (begin(jobs, workspace, SLEEP) for _ in range(3))
    tool = begin(jobs, workspace, QUICK, uses_device=False)
    wait_for(jobs, tool, "finished")
    assert [jobs.state(job) for job in (first, second, third)] == ["running", "waiting", "waiting"]
    assert [jobs.count_ahead(job) for job in (second, third)] == [0, 1]
    jobs.stop(second)
    assert jobs.state(second) == "cancelled"
    jobs.stop(first)
    wait_for(jobs, first, "stopped")
    wait_for(jobs, third, "running")
    assert jobs.is_device_busy()


def test_each_device_runs_a_job_of_its_own(home):
    show = [sys.executable, "-S", "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    wait = [*show[:3], show[3] + "; import time; time.sleep(60)"]
    jobs = Jobs(home, devices=2)
    job, other = (begin(jobs, visitor(home), wait) for _ in range(2))
    last = begin(jobs, visitor(home), show)
    for one in (job, other):
        wait_for(jobs, one, "running")
    assert jobs.state(last) == "waiting"


def test_the_queue_prefers_visitors_without_a_turn(home):
    jobs = Jobs(home)
    greedy = [begin(jobs, visitor(home, 1), SLEEP) for _ in range(3)]
    modest = begin(jobs, visitor(home, 2), SLEEP)
    jobs.stop(greedy[0])
    wait_for(jobs, greedy[0], "stopped")
    wait_for(jobs, modest, "running")
    assert jobs.state(greedy[1]) == "waiting"


def test_visitors_take_turns_by_their_last_turn_and_see_their_true_place(home):
    jobs = Jobs(home)
    mine = [begin(jobs, visitor(home, 1), SLEEP) for _ in range(3)]
    theirs = [begin(jobs, visitor(home, 2), SLEEP) for _ in range(2)]
    assert [jobs.count_ahead(job) for job in (theirs[0], mine[1], theirs[1], mine[2])] == [
        0,
        1,
        2,
        3,
    ]
    jobs.stop(theirs[0])  # It never ran, so it was no turn.
    assert [jobs.count_ahead(job) for job in (theirs[1], mine[1], mine[2])] == [0, 1, 2]
    served = [mine[0], theirs[1], mine[1]]
    for job, following in itertools.pairwise(served):
        wait_for(jobs, job, "running")
        jobs.stop(job)
        wait_for(jobs, job, "stopped")
        wait_for(jobs, following, "running")
    # Asked for last, and their last turn is longer ago than mine, whose job is the older one.
    late = begin(jobs, visitor(home, 2), SLEEP)
    wait_for_words(jobs, mine[1], "at work")
    after = Jobs(home)  # Knows nothing but the folder.
    assert [after.count_ahead(job) for job in (late, mine[2])] == [0, 1]
    jobs.stop(mine[1])
    wait_for(jobs, late, "running")


def test_a_visitor_with_a_running_job_waits_for_one_without(home):
    jobs = Jobs(home, devices=2)
    long, short = (begin(jobs, visitor(home, number), SLEEP) for number in (1, 2))
    for job in (long, short):
        wait_for(jobs, job, "running")
    mine, theirs = (begin(jobs, visitor(home, number), SLEEP) for number in (1, 2))
    jobs.stop(short)
    wait_for(jobs, theirs, "running")
    assert jobs.state(mine) == "waiting"


def test_a_stop_reaches_the_command_once_so_that_it_can_save(home):
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), PATIENT)
    wait_for_words(jobs, job, "ready")
    jobs.stop(job)
    assert wait_for(jobs, job, "stopped", "failed") == "stopped"
    assert jobs.tail(job) == ["ready", "saved"]
    assert jobs.status(job) == 143


def test_a_stop_right_after_the_start_is_not_lost(home):
    jobs = Jobs(home)
    for _ in range(3):
        job = begin(jobs, visitor(home), SLEEP)
        jobs.stop(job)
        wait_for(jobs, job, "stopped")


def test_the_next_server_finds_running_jobs_and_their_exit_status(home):
    before = Jobs(home)
    workspace = visitor(home)
    job, waiting = begin(before, workspace, PATIENT), begin(before, workspace, QUICK)
    wait_for_words(before, job, "ready")
    after = Jobs(home)  # Knows nothing but the folder.
    after.tick()
    assert [after.state(one) for one in after.list_jobs(workspace)] == ["running", "waiting"]
    after.stop(job)
    wait_for(after, job, "stopped")
    wait_for(after, waiting, "finished")


def test_a_job_that_a_dead_server_started_is_not_started_twice(home):
    jobs, workspace = Jobs(home), visitor(home)
    job = begin(jobs, workspace, SLEEP)
    wait_for_words(jobs, job, "at work")
    claim = json.loads((jobs.folder / job.id / job_process.PROCESS).read_text())
    again = [sys.executable, str(job_process.__file__), str(jobs.folder / job.id), "0", *QUICK]
    assert subprocess.run(again).returncode == 1
    assert json.loads((jobs.folder / job.id / job_process.PROCESS).read_text()) == claim


def test_a_killed_process_is_detected(home):
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), SLEEP)
    wait_for_words(jobs, job, "at work")
    mark = json.loads((jobs.folder / job.id / job_process.PROCESS).read_text())
    children = psutil.Process(mark["pid"]).children(recursive=True)
    os.kill(mark["pid"], signal.SIGKILL)
    try:
        wait_for(jobs, job, "failed")
        assert Jobs(home).state(job) == "failed"
        assert jobs.status(job) is None
    finally:
        for process in children:
            process.kill()


def test_another_process_with_the_same_id_is_not_mistaken_for_the_job(home):
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), QUICK)
    wait_for(jobs, job, "finished")
    folder = jobs.folder / job.id
    (folder / job_process.EXIT).unlink()
    facts = {"pid": os.getpid(), "started": time.time() - 10_000, "device": 0}
    (folder / job_process.PROCESS).write_text(json.dumps(facts))
    assert Jobs(home).state(job) == "failed"


def test_no_visitor_finds_anothers_job(home):
    jobs = Jobs(home)
    job = begin(jobs, visitor(home, 1), QUICK)
    assert jobs.list_jobs(visitor(home, 2)) == []
    with pytest.raises(StudioError, match="no such job"):
        jobs.find(visitor(home, 2), job.id)
    wait_for(jobs, job, "finished")


def test_too_many_jobs_and_two_that_write_one_run_are_refused(home):
    jobs, workspace = Jobs(home), visitor(home)
    begin(jobs, workspace, SLEEP, runs=["mug-nora"])
    with pytest.raises(StudioError, match="already"):
        begin(jobs, workspace, SLEEP, runs=["mug-lora", "mug-nora"])
    for _ in range(WAITING_LIMIT):
        begin(jobs, workspace, SLEEP)
    with pytest.raises(StudioError, match="of your jobs are waiting"):
        begin(jobs, workspace, SLEEP)
    begin(jobs, visitor(home, 2), SLEEP)  # Another one's line is their own.


def test_a_secret_reaches_the_command_and_no_file(home):
    show = [sys.executable, "-S", "-c", "import os; print(len(os.environ['HF_TOKEN']))"]
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), show, secret={"HF_TOKEN": "hf_abcdefgh"})
    wait_for(jobs, job, "finished")
    assert jobs.tail(job) == ["11"]
    texts = [file.read_text() for file in home.rglob("*") if file.is_file()]
    assert texts and not any("hf_abcdefgh" in text for text in texts)


def test_a_secret_that_a_restart_lost_is_asked_for_again(home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_the_operators_own")
    before, workspace = Jobs(home), visitor(home)
    first = begin(before, workspace, PATIENT)
    wait_for_words(before, first, "ready")
    show = [sys.executable, "-S", "-c", "import os; print(os.environ['HF_TOKEN'])"]
    job = begin(before, workspace, show, secret={"HF_TOKEN": "hf_mine"})
    assert before.state(job) == "waiting"
    after = Jobs(home)
    after.stop(first)
    assert wait_for(after, job, "failed", "finished") == "failed"
    assert "no longer has your token. Enter it again." in after.tail(job)[0]


def test_a_progress_bar_is_one_line_of_the_tail(home):
    bar = [sys.executable, "-S", "-c", r"print('a\nstep 1\rstep 2\rstep 3\nb')"]
    jobs = Jobs(home)
    job = begin(jobs, visitor(home), bar)
    wait_for(jobs, job, "finished")
    assert jobs.tail(job) == ["a", "step 3", "b"]
