"""One process trains into a folder at a time."""

import errno
import logging
import pathlib
import stat
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

NAME = ".lock"
PATIENCE = 1.0  # seconds: a process that was just killed may take a moment to end
NONE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}  # a file system without locks
log = logging.getLogger("jaxcnn")


def lock(folder: pathlib.Path) -> Any:
    """Take a folder's lock, which ends with the process at the latest.

    Args:
        folder: there already; the lock is the file `.lock` in it, which stays.

    Returns:
        What has `release()`; None, and said, where there are no locks.

    Raises:
        InputError: another `fit`, in this process or another one, has it.
        OSError: nothing can be written there.

    """
    from filelock import FileLock, Timeout

    path = folder / NAME
    try:
        there = path.lstat()
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:  # a link to what filelock would empty, or a pipe
            path.unlink()
    except FileNotFoundError:
        pass
    held = FileLock(str(path), timeout=PATIENCE)
    try:
        held.acquire()
    except Timeout:
        raise InputError(
            f"workdir={visible(folder)}: another process is training into it; wait until it has ended, or give another workdir"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NONE:
            raise
        log.warning("%s cannot be locked (%s): do not train into it twice at once", visible(folder), reason(error))
        return None
    return held
