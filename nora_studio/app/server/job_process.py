"""Run one command and record its exit status: `python job_process.py FOLDER DEVICE COMMAND...`.

A job outlives the server that started it, and the next server is not its parent, so it reads the
exit status from a file. Only the standard library is imported, since this starts with every job.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

PROCESS, EXIT, OUTPUT = "process.json", "exit.json", "output.log"


def start(
    folder: Path,
    device: int,
    working_folder: Path,
    command: Sequence[str],
    environment: Mapping[str, str],
) -> subprocess.Popen[bytes]:
    """Run `main` in a process and session of its own, in the visitor's folder."""
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), str(device), *command],
        cwd=working_folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main(folder: Path, device: int, command: list[str]) -> int:
    """Run the command with its output in the folder, and forward signals to it."""
    process: subprocess.Popen[bytes] | None = None
    pending: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        pending.append(number)
        deliver()

    def deliver() -> None:  # Each only once: a second signal makes the trainer exit at once.
        while process is not None and pending:
            process.send_signal(pending.pop(0))

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None:  # Windows has no SIGHUP.
            signal.signal(number, forward)
    try:  # Only one process may claim the job: a killed server may have started it already.
        with (folder / PROCESS).open("x", encoding="utf-8") as claim:
            json.dump({"pid": os.getpid(), "started": time.time(), "device": device}, claim)
    except FileExistsError:
        return 1
    with (folder / OUTPUT).open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        deliver()
        status = process.wait()
        output.flush()
        os.fsync(output.fileno())
    fresh = folder / f"{EXIT}.new"
    fresh.write_text(json.dumps({"status": status if status >= 0 else 128 - status}))
    fresh.replace(folder / EXIT)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
