"""The user's folder for what can be made or fetched again, and how it is kept within limits."""

import contextlib
import os
import pathlib
import sys


def cache_folder(name: str) -> pathlib.Path:
    """Return the folder of one kind of thing: compiled programs (`jax`), decoded data (`data`), downloads (`weights`)."""
    base = os.environ.get("XDG_CACHE_HOME") or {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA") or "~"}.get(
        sys.platform, "~/.cache"
    )
    return pathlib.Path(base).expanduser() / "jaxcnn" / name


def prune(folder: pathlib.Path, limit: int) -> None:
    """Remove the files that were not used for longest until `limit` bytes are left."""
    with contextlib.suppress(OSError):
        found = [(p, p.stat()) for p in folder.iterdir() if p.is_file()]
        left = sum(s.st_size for _, s in found)
        for path, s in sorted(found, key=lambda f: max(f[1].st_atime, f[1].st_mtime)):
            if left <= limit:
                break
            path.unlink(missing_ok=True)
            left -= s.st_size
