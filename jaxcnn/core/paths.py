"""The user's cache folder, and how its size is kept within limits."""

import atexit
import contextlib
import functools
import logging
import os
import pathlib
import shutil
import sys
import tempfile

log = logging.getLogger("jaxcnn")


def cache_folder(name: str) -> pathlib.Path:
    """Return the cache folder of compiled programs (`jax`), decoded data (`data`) or downloads (`weights`).

    A user without a home folder, such as one of a container who is not in passwd, gets a temporary folder.
    """
    base = os.environ.get("XDG_CACHE_HOME") or {
        "darwin": "~/Library/Caches",
        "win32": os.environ.get("LOCALAPPDATA") or "~",
    }.get(sys.platform, "~/.cache")
    try:
        return pathlib.Path(base).expanduser() / "jaxcnn" / name
    except RuntimeError:
        return for_now() / name


@functools.cache
def for_now() -> pathlib.Path:
    """Make a folder that only this user can read and that is removed when the process ends; log a warning about it."""
    log.warning(
        "this user has no home folder, so nothing is kept for the next time; set XDG_CACHE_HOME to a folder to keep it"
    )
    folder = tempfile.mkdtemp(prefix="jaxcnn-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pathlib.Path(folder)


def prune(folder: pathlib.Path, limit: int) -> None:
    """Remove the least recently used files until at most `limit` bytes are left."""
    with contextlib.suppress(OSError):
        found = [(p, p.stat()) for p in folder.iterdir() if p.is_file()]
        left = sum(s.st_size for _, s in found)
        for path, s in sorted(found, key=lambda f: max(f[1].st_atime, f[1].st_mtime)):
            if left <= limit:
                break
            path.unlink(missing_ok=True)
            left -= s.st_size
