"""Arrays from untrusted `.npz` archives: the stated size of a member is checked before memory is allocated."""

import contextlib
import io
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
from numpy.lib import format as npy

from jaxcnn.core.files import held, opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

UNPACKED = 2**30  # unpacked bytes that are allowed for any file
TIMES = 20  # unpacked bytes per packed byte in larger files: images rarely exceed 20, a zip bomb reaches 1,000
MEMBERS = 10_000
HEADER = 10_000  # bytes, NumPy's own limit


def allowed(size: int, limit: int | None = None) -> int:
    """Return the most unpacked bytes of a compressed file of `size` bytes; `limit`, if given, replaces the default."""
    return max(UNPACKED, TIMES * size) if limit is None else limit


@contextlib.contextmanager
def open_npz(path: str | pathlib.Path, limit: int | None = None) -> Iterator[Mapping[str, np.ndarray]]:
    """Open an archive as a mapping that reads each array on access; a single `.npy` array gives an empty mapping.

    Args:
        path: path of the file.
        limit: most bytes of all arrays together; by default see `allowed`.

    Raises:
        InputError: The path is not a regular file; or, while reading, the arrays are larger than the limit.
        Exception: The file is damaged; `zipfile`, its decompressors and NumPy raise errors of many types.

    """
    with opened(path) as file:
        if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
            yield {}
            return
        with zipfile.ZipFile(file) as archive:
            yield _Archive(archive, allowed(held(os.fstat(file.fileno())), limit), visible(path))


class _Archive(Mapping):
    def __init__(self, archive: zipfile.ZipFile, limit: int, path: str):
        self.archive, self.limit, self.left, self.path = archive, limit, limit, path
        found = archive.infolist()
        self.infos = {info.filename.removesuffix(".npy"): info for info in found}
        if len(found) > MEMBERS or len(self.infos) < len(found):
            raise ValueError(f"{len(found):,} members" if len(found) > MEMBERS else "two members of one name")

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.infos[name]
        with self.archive.open(info) as file:
            size = _stated(file, info.file_size, visible(name))
        if size > self.left:
            raise InputError(
                f"{self.path}: array {visible(name)} of {size:,} bytes; the arrays exceed the limit of {self.limit:,} "
                "bytes for such a file; raise limit_bytes= if the size is right"
            )
        self.left -= size
        with self.archive.open(info) as file:
            return npy.read_array(file, allow_pickle=False)


def _stated(file: IO[bytes], size: int, name: str) -> int:
    """Return the size of an array in bytes by its header, which must agree with the size of its member."""
    start = file.read(12)
    if not start.startswith(npy.MAGIC_PREFIX) or start[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError(f"{name}: not an array in NumPy's format 1.0 or 2.0")
    first = 10 if start[6] == 1 else 12
    length = int.from_bytes(start[8:first], "little")
    if length > HEADER:
        raise ValueError(f"{name}: a header of {length:,} bytes")
    header = io.BytesIO(start[8:] + file.read(length))
    shape, _, dtype = (npy.read_array_header_1_0 if start[6] == 1 else npy.read_array_header_2_0)(header)
    if dtype.kind not in "biufcSU":
        raise ValueError(f"{name}: Python objects or records, which need allow_pickle")
    stated, has = math.prod(shape) * dtype.itemsize, size - first - length
    if min(shape, default=0) < 0 or stated != has:
        raise ValueError(f"{name}: its header states {stated:,} bytes, but it has {has:,}")
    return stated
