"""Errors of a full disk or a folder that cannot be written, in one line with the remedy."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from nora_studio.errors import StudioError

GO_ON = "continue with the same command and --resume"
START_AGAIN = "start the same command again"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSALS = (*_NO_ROOM, errno.EROFS, errno.EIO)
"""Error numbers that only a disk causes; others may be errors of this program."""


class DiskError(StudioError):
    """A file or folder could not be written."""


@contextlib.contextmanager
def writing(what: str, where: Path, then: str = START_AGAIN) -> Iterator[None]:
    """Turn a failed write in the block into an error that says in one line what, where and why.

    Args:
        what: What is written, such as "a checkpoint".
        then: What to do after the remedy.

    Raises:
        DiskError: something could not be written.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, what, where, then) from error
    except DiskError:
        raise
    except StudioError as error:
        # Errors from deeper levels say neither what was written nor how much space is free.
        if not isinstance(error.__cause__, OSError):
            raise
        raise disk_error(error.__cause__, what, where, then) from error


def disk_error(error: OSError, what: str, where: Path, then: str) -> DiskError:
    """Return the error for one failed write."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not where.parent.is_dir():
        reason, remedy = "its folder was moved or removed", "Put it back"
    elif error.errno == errno.ENAMETOOLONG:
        reason, remedy = "its name is too long for the disk", "Choose a shorter name"
    elif error.errno in _NO_ROOM:
        reason, remedy = f"{reason} ({_free_space(where)})", "Free some space"
    elif error.errno == errno.EIO:
        remedy = "Check the disk"
    else:
        remedy = "Make it writable"
    return DiskError(f"{where} cannot be written ({what}): {reason}. {remedy}, then {then}.")


def _free_space(where: Path) -> str:
    for folder in (where, *where.absolute().parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free"
    return "free space unknown"
