"""Child processes that are stopped by the system when their parent is killed."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def stop_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` for a child process that is to be stopped when this process ends.

    On Linux the system then sends the child SIGTERM, at which a trainer saves and ends. Other
    systems cannot do this, and a child of a killed process runs on: None.

    Linux watches the thread that starts the child; it must not end before the child does.
    """
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def request_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # The parent was killed before the request.
            os._exit(128 + signal.SIGTERM)

    return request_signal
