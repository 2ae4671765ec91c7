"""A cache of decoded arrays in a folder, so that a data set is decoded once; a damaged file counts as absent."""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.paths import prune
from jaxcnn.data.arrays import open_npz

FORMAT = 1
BYTES = 4 * 2**30  # size limit of the cache; the least recently used files are deleted first


def load(folder: str | pathlib.Path, key: Any) -> dict[str, np.ndarray] | None:
    """Return the arrays that `store` saved under this key, or None.

    Args:
        folder: folder of the cache.
        key: a JSON value.

    """
    with contextlib.suppress(Exception):  # absent or damaged; zipfile checks every byte and raises errors of many types
        path = _path(folder, key)
        with open_npz(path, path.lstat().st_size) as archive:  # `store` does not compress, and lstat limits links
            found = dict(archive)
        os.utime(path)  # for `prune`
        return found
    return None


def store(folder: str | pathlib.Path, key: Any, arrays: Mapping[str, np.ndarray], limit: int = BYTES) -> None:
    """Save arrays in the cache atomically; do nothing if the folder cannot be written.

    Args:
        folder: folder of the cache, created if absent.
        key: a JSON value that changes whenever the arrays change.
        arrays: dict from name to array.
        limit: most bytes in the folder; arrays above half of it are not saved.

    """
    if sum(x.nbytes for x in arrays.values()) > limit // 2:
        return
    path = _path(folder, key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType] (none is called `allow_pickle`)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
        prune(path.parent, limit)


def _path(folder: str | pathlib.Path, key: Any) -> pathlib.Path:
    return pathlib.Path(folder) / f"{hashlib.sha256(json.dumps([FORMAT, key]).encode()).hexdigest()[:32]}.npz"
