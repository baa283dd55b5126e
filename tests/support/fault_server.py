"""Runs single tests in forks of a process that has imported the libraries, and nothing of ours.

Importing torch, diffusers and PEFT takes ten times as long as most tests. Each fork imports the
package and the test by itself, so it sees the copy of the package that it is given.

Run as a script it is the server: requests come as lines of JSON on its standard input, and each is
answered by the path of a file with the result.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = (
    "numpy", "PIL.Image", "torch", "accelerate", "open_clip", "peft", "peft.tuners.adalora",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
    "transformers.models.clip.image_processing_clip",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.schedulers.scheduling_ddpm", "diffusers.training_utils", "hypothesis", "tyro",
)  # fmt: skip
LONGEST_SECONDS = 240
OPTIONS = (
    "-q", "-n", "0", "-m", "", "--tb=short", "--maxfail=1",
    "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio",
)  # fmt: skip


class FaultServer:
    """Starts the server, and ends it with the block."""

    def __init__(self, checkout: Path) -> None:
        """Name the folder with `tests` and pytest's settings."""
        self.checkout = checkout

    def __enter__(self) -> "FaultServer":
        # Without the checkout on its path: a fork has the copy alone.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def run(self, copy: Path, test: str) -> dict[str, Any]:
        """Run a test of the checkout on a copy of the package.

        Args:
            copy: Folder that holds `nora_studio`; the test's output goes into it too.
            test: As pytest names it, from `tests` on.

        Returns:
            "passed": tests; "failed": [test, phase, kind] each, the kind "assertion" or the name of
            the exception; "package": the file that was imported.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"checkout": str(self.checkout), "copy": str(copy), "test": test}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        said = (copy / "output.txt").read_text(encoding="utf-8")
        assert answer["status"] == 0, f"{test}: {answer}\n{said}"
        return json.loads((copy / "result.json").read_text(encoding="utf-8"))


class Recorder:
    """Notes which tests passed, and by what kind of exception others failed."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[tuple[str, str, str]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo):
        report = yield
        if report.failed:
            error = call.excinfo.value if call.excinfo else None
            is_assertion = isinstance(error, AssertionError | pytest.fail.Exception)
            kind = "assertion" if is_assertion else type(error).__name__
            self.failed.append((item.nodeid, report.when, kind))
        elif report.when == "call" and report.passed:
            self.passed.append(item.nodeid)
        return report


def run_test(checkout: str, copy: str, test: str) -> None:
    """In a fork: run a test, and write what came of it."""
    output = os.open(Path(copy) / "output.txt", os.O_WRONLY | os.O_CREAT)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    ours = [name for name in sys.modules if name.partition(".")[0] == "nora_studio"]
    assert not ours, f"the server has imported {ours}"
    sys.path.insert(0, copy)
    os.environ["PYTHONPATH"] = copy
    os.chdir(copy)  # A child process would find the checkout's own package in the checkout.
    recorder = Recorder()
    settings = (f"--rootdir={checkout}", "-c", f"{checkout}/pyproject.toml")
    place = (f"--basetemp={copy}/temporary", f"{checkout}/tests/{test}")
    pytest.main([*OPTIONS, *settings, *place], plugins=[recorder])
    package = getattr(sys.modules.get("nora_studio"), "__file__", None)
    result = {"passed": recorder.passed, "failed": recorder.failed, "package": package}
    (Path(copy) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _fork(request: dict[str, str]) -> int:
    """Run a request in a fork, and return its exit status; -9: it took too long."""
    child = os.fork()
    if not child:
        status = 1
        try:
            run_test(**request)
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    ends = time.monotonic() + LONGEST_SECONDS
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(child, 9)
        time.sleep(0.02)


def serve() -> None:
    """Import the libraries, then answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints is no answer.
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps({"status": _fork(json.loads(line))}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
