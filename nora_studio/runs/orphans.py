"""Child processes that end when whoever started them was killed, and had no time to tell them."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with_us() -> Callable[[], None] | None:
    """What a child process is to do before its program (`preexec_fn`), to be stopped after us.

    On Linux the system then sends it SIGTERM, at which a trainer saves and ends. Elsewhere there is
    no such thing, and a child of a killed process goes on: None.

    The system goes by the thread that starts the child, which must not end before it.
    """
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # Killed before that line.
            os._exit(128 + signal.SIGTERM)

    return ask
