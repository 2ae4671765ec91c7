"""IDX files, the format of MNIST: four files with images and labels to train and to test on, gzipped or not."""

import contextlib
import filecmp
import gzip
import io
import math
import os
import pathlib
import re
import zlib
from collections.abc import Iterator

import numpy as np

from jaxcnn.core.files import held, opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.arrays import allowed
from jaxcnn.data.core import Splits
from jaxcnn.data.files import _from_arrays

NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")
NEEDS = f"needs the four IDX files {', '.join(NAMES)}"
# `emnist-letters-train-images-idx3-ubyte.gz`, `train-images.idx3-ubyte`, `qmnist-test-labels-idx2-int`
NAMED = re.compile(r"(.*?)[-_.]?(train|t10k|test)[-_.](images|labels)([-_.]idx\d.*|\.gz)?", re.IGNORECASE | re.DOTALL)
DTYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
SLACK = 2**16  # bytes that gzip may need in addition to the data
LOOKED_AT = 100  # most files with other names to look into


def idx(
    path: str | pathlib.Path, *, seed: int = 0, validation_fraction: float = 0.1, limit_bytes: int | None = None
) -> Splits:
    """Read a folder of four IDX files named like MNIST's, `train-images...`, `t10k-labels...`, gzipped or not.

    The names may start with the name of a set (`emnist-letters-train-images...`) and have `test` instead of `t10k`.

    Args:
        path: the folder.
        seed: seed of the stratified validation split.
        validation_fraction: share of the training rows to validate on, in [0, 1).
        limit_bytes: most bytes of an array; by default 1 GiB, or 20 times the file's size if that is more.

    Raises:
        InputError: A file is missing, truncated, or not an IDX file.

    """
    path = pathlib.Path(path)
    if path.is_file():
        raise InputError(f"{visible(path)}: one file of an IDX set; give the folder that holds it, which {NEEDS}")
    found = _find(path)
    arrays = {name: _read(found[name], limit_bytes) for name in NAMES}
    arrays |= {name: _labels(arrays[name], found[name]) for name in NAMES if name.endswith("labels")}
    return _from_arrays(list(arrays.values()), visible(path), seed, validation_fraction)


def is_idx_folder(path: pathlib.Path) -> bool:
    """Whether a folder has an IDX file, or a file is one; the set may be incomplete."""
    if path.is_file():
        return bool(NAMED.fullmatch(path.name)) or _begins_like_idx(path)
    if not path.is_dir():
        return False
    files = _files(path)
    named = any(NAMED.fullmatch(p.name) or p.name.startswith(NAMES[0]) for p in files)
    return named or any(_begins_like_idx(p) for p in files[:LOOKED_AT])


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Files of a folder and of its subfolders with IDX names: some programs unpack each file into its own folder."""
    try:
        inside = [q for p in path.iterdir() if p.is_dir() and NAMED.fullmatch(p.name) for q in p.iterdir()]
        files = [p for p in [*path.iterdir(), *inside] if not p.name.startswith(".") and p.is_file()]
        return sorted(files, key=lambda p: p.name)
    except OSError as error:
        raise InputError(f"{visible(path)}: no file {NAMES[0]}* ({visible(reason(error))}); {NEEDS}") from error


def _find(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return a dict from the usual names to the four files of a folder."""
    files, sets, chosen, twice = _files(path), set(), {}, None
    for file in files:
        name = next((name for name in NAMES if file.name.startswith(name)), None)
        found = NAMED.fullmatch(file.name)
        if name is None and found is not None:
            name = f"{'train' if found[2].lower() == 'train' else 't10k'}-{found[3].lower()}"
        if name is not None:
            sets.add(found[1] if found else "")
            before = chosen.setdefault(name, file)  # an unpacked file comes before the gzipped one
            other = before is not file and file.name != f"{before.name}.gz"
            if other and not filecmp.cmp(before, file, shallow=False):
                twice = before, file
    if len(sets) > 1:
        names = ", ".join(visible(name or "one without a name") for name in sorted(sets)[:10])
        raise InputError(
            f"{visible(path)}: IDX files of several sets ({names}); move those of one set into a folder of their own"
        )
    if twice:
        both = " and ".join(visible(file.relative_to(path)) for file in twice)
        raise InputError(f"{visible(path)}: {both} are the same part; remove one of them")
    missing = [name for name in NAMES if name not in chosen]
    if missing:
        unnamed = [p for p in files[:LOOKED_AT] if p not in chosen.values() and _begins_like_idx(p)]
        there = ", ".join(visible(p.name) for p in [*chosen.values(), *unnamed][:10])
        fix = "; rename the files to these names" if unnamed else ""
        raise InputError(f"{visible(path)}: no file {missing[0]}*; {NEEDS}{fix}{f' (it has {there})' if there else ''}")
    return chosen


def _labels(label: np.ndarray, path: pathlib.Path) -> np.ndarray:
    """Return labels `[N]`; a file may also have them as a column `[N, 1]`."""
    if label.ndim == 2 and label.shape[1] == 1:
        return label[:, 0]
    if label.ndim != 1:
        raise InputError(
            f"{visible(path)}: labels of shape {label.shape}; an IDX file of labels must have one number per image, [N]"
        )
    return label


@contextlib.contextmanager
def _unpacked(path: pathlib.Path) -> Iterator[tuple[io.BufferedIOBase, int | None]]:
    """Open a file, gzipped or not; the size is None if it is gzipped."""
    with opened(path) as file:
        packed = path.suffix == ".gz" or file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked, None
        else:
            yield file, os.fstat(file.fileno()).st_size


def _begins_like_idx(path: pathlib.Path) -> bool:
    """Whether a file has the header of an IDX file, and the size that the header states."""
    try:
        with _unpacked(path) as (file, size):
            shape, dtype = _head(file, path)
            return size is None or size == 4 + 4 * len(shape) + math.prod(shape) * dtype.itemsize
    except (InputError, OSError, EOFError, zlib.error):
        return False


def _head(file: io.BufferedIOBase, path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype]:
    start = file.read(4)
    count = start[3] if len(start) == 4 and start[:2] == b"\0\0" and start[2] in DTYPES else 0
    sides = file.read(4 * count)
    if not 1 <= count <= 4 or len(sides) < 4 * count:
        raise InputError(
            f"{visible(path)}: not an IDX file of unsigned bytes (begins with {start.hex() or 'nothing'}, not 00000801 "
            "to 00000804) or other numbers; download or unpack it again"
        )
    return tuple(np.frombuffer(sides, ">u4").tolist()), np.dtype(DTYPES[start[2]])


def _read(path: pathlib.Path, limit: int | None) -> np.ndarray:
    try:
        with _unpacked(path) as (file, size):
            shape, dtype = _head(file, path)
            stated, packed = math.prod(shape) * dtype.itemsize, os.stat(path)
            if size is None and packed.st_size > 2 * stated + SLACK:  # gzip would read zeros after its end one by one
                packs = f"{packed.st_size:,} packed bytes, but its header says {stated:,} unpacked"
                raise InputError(f"{visible(path)}: {packs}; download it again")
            most = allowed(held(packed), limit)
            has = stated if size is None else size - 4 - 4 * len(shape)
            if has == stated and stated > most:
                raise InputError(
                    f"{visible(path)}: its header says {stated:,} bytes, more than the limit of {most:,} bytes for such"
                    " "
                    "a file; raise limit_bytes= if the size is right"
                )
            data = np.empty(stated if has == stated else 0, np.uint8)
            if has == stated:
                has = _fill(data, file)
                has += has == stated and len(file.read(1))  # at its end gzip checks the checksum
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{visible(path)}: not readable ({visible(reason(error))}); download or unpack it again"
        ) from error
    if has != stated:
        sides = " x ".join(map(str, shape)) + (f" of {dtype.itemsize} bytes" if dtype.itemsize > 1 else "")
        line = f"{has} bytes of data, but its header says {sides}; it is cut or damaged"
        raise InputError(f"{visible(path)}: {line}: download it again")
    return _plain(data.view(dtype).reshape(shape))


def _fill(data: np.ndarray, file: io.BufferedIOBase) -> int:
    """Read into an array of bytes until it is full or the file ends; return the number of bytes."""
    at, whole = 0, data.data
    while at < len(data):
        count = file.readinto(whole[at : at + 2**24])
        if not count:
            break
        at += count
    return at


def _plain(data: np.ndarray) -> np.ndarray:
    """Convert the numbers to the dtypes of images and labels if they fit."""
    if data.dtype.kind == "f":
        return data.astype(np.float32)
    if data.ndim <= 2:
        return data.astype(np.int32)
    fits = data.dtype != np.uint8 and data.size and 0 <= data.min() and data.max() <= 255
    return data.astype(np.uint8) if fits else data.astype(data.dtype.newbyteorder("="), copy=False)
