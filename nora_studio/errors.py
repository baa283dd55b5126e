"""The one error that users are meant to read, and how entry points tell it."""

import contextlib
import difflib
import errno
import os
import select
import sys
from collections.abc import Callable, Iterable


class StudioError(ValueError):
    """Bad input, told in one line: what was expected, what came, where, and the remedy.

    Entry points print the message alone and exit with status 2; a traceback is for our own faults.
    """


def format_value(value: object, most: int = 80) -> str:
    """Write a value that somebody gave for a message: its `repr`, cut where it is long.

    Args:
        most: Characters of the value.
    """
    if isinstance(value, int) and abs(value) >= 10**most:  # Python writes out 4,300 digits at most.
        return f"a number of more than {most} digits"
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[: most - 3]}...")
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_line(error: Exception) -> str:
    """Give the first line of what a library says; its error's name where it says nothing."""
    return (str(error).strip().splitlines() or [repr(error)])[0]


def suggestion(word: str, known: Iterable[str]) -> str:
    """Write " Did you mean ...?" when something known is close to a word, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


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
