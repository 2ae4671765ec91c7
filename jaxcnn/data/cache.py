"""Arrays kept in a folder between runs, so that a set is decoded once; what is damaged is as if absent."""

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
BYTES = 4 * 2**30  # kept at most; what was not used for longest goes first


def load(folder: str | pathlib.Path, key: Any) -> dict[str, np.ndarray] | None:
    """Return the arrays that `store` left under this key, or None."""
    with contextlib.suppress(Exception):  # absent, cut or changed: zipfile checks every byte, and raises a dozen kinds
        path = _path(folder, key)
        with open_npz(path, path.lstat().st_size) as archive:  # `store` compresses nothing; a link has only a few bytes
            found = dict(archive)
        os.utime(path)  # for `prune`
        return found
    return None


def store(folder: str | pathlib.Path, key: Any, arrays: Mapping[str, np.ndarray], limit: int = BYTES) -> None:
    """Leave arrays in the folder, a whole file or none; a folder that cannot be written is left alone.

    Args:
        folder: made if absent.
        key: a JSON value that is another whenever the arrays would be.
        arrays: by name.
        limit: bytes in the folder at most; arrays of more than half of it are not kept.

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
