"""How an entry point ends: with a status, and one line where something is wrong."""

import contextlib
import errno
import os
import select
import signal
import sys
import threading
from collections.abc import Callable

from nora_studio.errors import StudioError
from nora_studio.runs.stop import ending_at_once

READER_GONE = 128 + 13
"""The exit status that a shell reports for SIGPIPE."""


def run_entry(main: Callable[[], int]) -> int:
    """Run an entry point; a `StudioError` becomes one line on stderr and status 2, Ctrl-C 130.

    So does a name that no file can have, wherever it was opened: whoever gave it can change it.
    If the reader of the output ends first (`| head`), this ends as its signal would: status 141.
    """
    try:
        try:
            return _status_of(main)
        finally:
            sys.stdout.flush()  # Not at exit, where nothing can handle that its reader has gone.
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        return READER_GONE


def _status_of(main: Callable[[], int]) -> int:
    try:
        with ending_at_once(_signals_to_handle()) as interrupts, interrupts.raised_as_they_are():
            return main()
    except StudioError as error:
        _print_error(str(error))
        return 2
    except (OSError, ValueError, RuntimeError) as error:
        problem = _problem_with_path(error)
        if problem is None:
            raise
        _print_error(problem)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _signals_to_handle() -> list[int]:
    """Give Ctrl-C, unless it is handled already, as by a trainer, or cannot be in this thread."""
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    main = threading.current_thread() is threading.main_thread()
    return [signal.SIGINT] if plain and main else []


def _reader_has_gone() -> bool:
    """Return whether nobody reads this process's output; what is left of it then goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def _print_error(line: str) -> None:
    with contextlib.suppress(OSError):  # Its terminal or log may be gone, which may be why.
        print(f"error: {line}", file=sys.stderr)


def _problem_with_path(error: Exception) -> str | None:
    """Say what is wrong with a name that the system refused to look up; None: something else."""
    if isinstance(error, OSError):
        name = repr(error.filename)
        if error.errno == errno.ENAMETOOLONG:
            shown = name if len(name) <= 80 else f"{name[:76]}...{name[-1]}"
            return (
                f"expected the name of a file or folder; got {shown}, {len(name) - 2:,} characters "
                "long. Shorten it."
            )
        return None
    # Neither Python nor the libraries below have a class of their own for these.
    words = str(error).lower()
    if isinstance(error, ValueError) and any(f"{kind} null" in words for kind in _EMBEDDED):
        return "expected the name of a file or folder; got one with a null byte. Remove it."
    if "could not determine home directory" in words:
        return "expected ~ or the home of a user of this machine; got another user's. Write it out."
    if words.startswith("symlink loop"):
        return f"expected a file or folder; got links that lead in a circle ({error})."
    return None


_EMBEDDED = ("embedded", "unexpected")
