"""A lock, so that only one process trains into a folder at a time."""

import errno
import logging
import pathlib
import stat
from typing import Any

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

NAME = ".lock"
PATIENCE = 1.0  # seconds to wait: a process that was just killed may take a moment to end
NONE = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}  # a file system without locks
log = logging.getLogger("jaxcnn")


def lock(folder: pathlib.Path, name: str = NAME, busy: str = "") -> Any:
    """Lock a folder. The operating system releases the lock when the process ends, if nothing else does earlier.

    Args:
        folder: an existing folder. The lock is a file in it, which is never deleted.
        name: of that file.
        busy: what to say when the lock is held; empty for that another process trains into the folder.

    Returns:
        An object with a `release()` method, or None, with a warning, if the file system does not support locks.

    Raises:
        InputError: another `fit`, in this process or a different one, holds the lock.
        OSError: the folder cannot be written to.

    """
    from filelock import FileLock, Timeout

    path = folder / name
    try:
        there = path.lstat()
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:  # filelock would empty a linked file
            path.unlink()
    except FileNotFoundError:
        pass
    held = FileLock(str(path), timeout=PATIENCE)
    try:
        held.acquire()
    except Timeout:
        raise InputError(
            busy
            or f"workdir={visible(folder)}: another process is training into it; "
            "wait until it has ended, or give a different workdir"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NONE:
            raise
        log.warning(
            "%s cannot be locked (%s): make sure that only one process writes into it", visible(folder), reason(error)
        )
        return None
    return held
