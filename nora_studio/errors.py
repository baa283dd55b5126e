"""The one error that users are meant to read, and how entry points tell it."""

import contextlib
import sys
from collections.abc import Callable


class StudioError(ValueError):
    """Bad input, told in one line: what was expected, what came, where, and the remedy.

    Entry points print the message alone and exit with status 2; a traceback is for our own faults.
    """


def run_entry(main: Callable[[], int]) -> int:
    """Run an entry point; a `StudioError` becomes one line on stderr and status 2, Ctrl-C 130."""
    try:
        return main()
    except StudioError as error:
        with contextlib.suppress(OSError):  # Its terminal or log may be gone, which may be why.
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
