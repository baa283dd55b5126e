"""What a full disk or a folder that cannot be written comes to: one line, with the remedy."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from nora_studio.errors import StudioError

GO_ON = "go on with the same command and --resume"
START_AGAIN = "start the same command again"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSALS = (*_NO_ROOM, errno.EROFS, errno.EIO)
"""What only a disk says; whatever else goes wrong in a system call may be a fault of ours."""


class DiskError(StudioError):
    """Something could not be written."""


@contextlib.contextmanager
def writing(what: str, where: Path, then: str = START_AGAIN) -> Iterator[None]:
    """Tell in one line what could not be written in the block, where, and why.

    Args:
        what: "a checkpoint", for example.
        then: What to do once the cause is gone.

    Raises:
        DiskError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, what, where, then) from error
    except DiskError:
        raise
    except StudioError as error:
        # Writers further down tell less: neither what for, nor how much room there is.
        if not isinstance(error.__cause__, OSError):
            raise
        raise disk_error(error.__cause__, what, where, then) from error


def disk_error(error: OSError, what: str, where: Path, then: str) -> DiskError:
    """The line for one refusal."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not where.parent.is_dir():
        reason, remedy = "its folder was moved or removed", "Put it back"
    elif error.errno == errno.ENAMETOOLONG:
        reason, remedy = "the name is too long for the disk", "Choose a shorter one"
    elif error.errno in _NO_ROOM:
        reason, remedy = f"{reason} ({_free(where)})", "Free some space"
    elif error.errno == errno.EIO:
        remedy = "Check the disk"
    else:
        remedy = "Make it writable"
    return DiskError(f"{where} cannot be written ({what}): {reason}. {remedy}, then {then}.")


def _free(where: Path) -> str:
    for folder in (where, *where.absolute().parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 2**20:,.1f} MiB free"
    return "free space unknown"
