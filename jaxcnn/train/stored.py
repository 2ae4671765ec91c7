"""Read the files of a checkpoint as untrusted input: sizes are checked before memory is allocated.

TensorStore reads the arrays, because Orbax follows links, blocks on pipes and trusts the declared sizes.
"""

import hashlib
import itertools
import json
import math
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from typing_extensions import TypedDict

from jaxcnn.core import files
from jaxcnn.core.schema import fitted
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.train.zstd import decoded_size

LARGEST = 2**31  # steps are int32
SLACK, RATIO = 2**28, 100  # a checkpoint may declare SLACK bytes, plus RATIO bytes per byte of its files
CHUNKS = 2**16  # chunks that an array may have; there is one per device that held a part


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


class Sealed(TypedDict):
    """The record beside the arrays, in the form of its file."""

    format: int
    loop: dict[str, Any]
    parts: dict[str, list[Any]]
    digest: str


class History(TypedDict):
    """The mark of a checkpoint in `history.jsonl`; see `history`."""

    rows: int
    bytes: int
    sha256: str


class Loop(TypedDict, total=False):
    """The known fields of a loop record. Other fields are allowed."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]

    batch_size: int
    seed: int
    rows: int
    monitor: str | None
    mode: str | None
    best: float | None
    best_step: int | None
    stale: int
    history: History | list[dict[str, Any]]
    partial: list[Any] | None
    seconds: float
    passed: list[list[int]]
    fingerprint: dict[str, Any] | None


def seal(parts: Mapping[str, list[Any]], loop: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record."""
    return hashlib.sha256(json.dumps([parts, loop], sort_keys=True).encode()).hexdigest()


def sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def weighed(folder: pathlib.Path) -> tuple[int, int]:
    """Return the total size of the files in a folder, and their size on the disk, which is smaller for sparse files.

    Raises:
        DamagedError: it is not a folder, or holds anything but regular files and folders, such as a link or a pipe.

    """
    total, held, waiting = 0, 0, [folder]
    if not stat.S_ISDIR(_mode(folder)):
        raise DamagedError("it is not a folder")
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    waiting.append(pathlib.Path(entry.path))
                elif stat.S_ISREG(found.st_mode):
                    total += found.st_size
                    held += files.held(found)
                else:
                    raise DamagedError(f"{visible(entry.name)} is not a regular file")
    return total, held


def _mode(path: pathlib.Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError as error:
        raise DamagedError(error.strerror or type(error).__name__) from error


def read_record(folder: pathlib.Path, formats: range) -> Sealed:
    """Read the record of a checkpoint, and check its structure, its digest and its values.

    Args:
        folder: the folder of the checkpoint.
        formats: the supported formats.

    Returns:
        The record.

    Raises:
        DamagedError: the record differs from the saved one, or has an invalid field.
        InputError: its format is not supported.

    """
    path = folder / "loop" / "metadata"
    try:
        record = files.read_json(path)
        known = isinstance(record, dict) and type(record.get("format")) is int
        if known and record["format"] not in formats:
            other = "newer" if record["format"] >= formats.stop else "older"
            raise _FormatError(
                f"checkpoint {folder.name} has format {record['format']}, {other} than this program's {formats[-1]}: "
                "use the version of jaxcnn that wrote it"
            )
        record = fitted(Sealed, record, "its record")
        if seal(record["parts"], record["loop"]) != record["digest"]:
            raise DamagedError("its record is not what was saved (digest differs)")
        loop = fitted(Loop, record["loop"], "its record")
        record["loop"] = dict(loop)
    except _FormatError as error:
        raise InputError(str(error)) from None
    except (OSError, RecursionError, InputError) as error:
        raise DamagedError(reason(error)) from error
    _check_loop(loop)
    for name, part in record["parts"].items():
        _check_part(name, part)
    return record


class _FormatError(Exception):
    pass


def _check_loop(loop: Loop) -> None:
    """Check that the numbers of a loop record are in range."""
    for name in ("rows", "stale", "best_step", "batch_size"):
        value = loop.get(name)
        if value is not None and not 0 <= value < LARGEST:
            raise DamagedError(f"its record has {name}={value}")
    for name in ("best", "seconds"):
        value = loop.get(name)
        if value is not None and not math.isfinite(value):
            raise DamagedError(f"its record has {name}={value}")
    if any(len(pair) != 2 or not all(0 <= n < LARGEST for n in pair) for pair in loop.get("passed", ())):
        raise DamagedError("its record lists skipped batches that cannot exist")


def _check_part(name: str, part: list[Any]) -> None:
    """Check the structure of `[dtype, shape, [[first, SHA-256], ...]]`."""

    def natural(values):
        return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**40 for n in values)

    def digested(pair, rank):
        if not (isinstance(pair, list) and len(pair) == 2):
            return False
        return natural(pair[0]) and len(pair[0]) in (0, rank) and isinstance(pair[1], str)

    good = len(part) == 3 and isinstance(part[0], str) and natural(part[1]) and len(part[1]) <= 32
    good = good and isinstance(part[2], list) and all(digested(pair, len(part[1])) for pair in part[2])
    if not good:
        raise DamagedError(f"its record describes {visible(name)} in a way that fits no array")


def check_sizes(folder: pathlib.Path, parts: Mapping[str, list[Any]], known: bool) -> None:
    """Check that the sizes of the files are plausible for the arrays that a record declares.

    Args:
        folder: the folder of the checkpoint.
        parts: dtype, shape and digests of each array, checked by `read_record`.
        known: whether the caller expects exactly these arrays. Otherwise they may not be much larger than the files.

    Raises:
        DamagedError: the sizes do not match, or a dtype does not exist.

    """
    size, held = weighed(folder)
    declared = sum(math.prod(shape) * _dtype(name, dtype).itemsize for name, (dtype, shape, _) in parts.items())
    if size > SLACK + 2 * declared or not known and declared > SLACK + RATIO * held:
        raise DamagedError(
            f"it declares {declared:,} bytes of arrays, and its files have {size:,}, of which {held:,} are on the disk"
        )


def _dtype(name: str, dtype: str) -> np.dtype:
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.hasobject or str(found) != dtype:
        raise DamagedError(f"its record gives {visible(name)} the dtype {visible(dtype)}, which does not exist")
    return found


def read_arrays(folder: pathlib.Path, parts: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Read all arrays of a checkpoint, and compare them with their digests.

    Args:
        folder: the folder of the arrays, `<step>/state`.
        parts: dtype, shape and digests of each array, checked by `read_record`.

    Returns:
        The arrays, `{path: array}`.

    Raises:
        DamagedError: an array does not match the record.

    """
    import tensorstore as ts

    base, context = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}, ts.Context()
    store = ts.KvStore.open(base, context=context).result()
    wanted = {name: part for name, part in parts.items() if 0 not in part[1]}  # empty arrays are not stored

    def spec(name):
        return {"driver": "zarr", "kvstore": base | {"path": f"{name}/"}}

    opened = {name: ts.open(spec(name), open=True, read=True, context=context) for name in wanted}
    for name, found in opened.items():
        for key in _chunks(name, found.result(), wanted[name]):
            _check_chunk(name, store.read(f"{name}/{key}").result().value, wanted[name])
    reading = {name: found.result().read() for name, found in opened.items()}
    flat = {
        name: np.asarray(reading[name].result()) if name in reading else np.zeros(part[1], part[0])
        for name, part in parts.items()
    }
    for name, x in flat.items():
        if not _unchanged(x, parts[name]):
            raise DamagedError(f"{visible(name)} is not what was saved (digest differs)")
    return flat


def _chunks(name: str, array: Any, part: list[Any]) -> Iterator[str]:
    """Check the metadata of a stored array, then yield the keys of its chunks."""
    form = array.spec().to_json()["metadata"]
    compressor, (dtype, shape, _) = form["compressor"], part
    if (list(array.shape), str(np.dtype(array.dtype.numpy_dtype))) != (shape, dtype):
        raise DamagedError(f"{visible(name)} has a different shape or dtype than its record says")
    counts = [-(-n // max(chunk, 1)) for chunk, n in zip(form["chunks"], shape, strict=True)]
    large = any(chunk > n for chunk, n in zip(form["chunks"], shape, strict=True)) or math.prod(counts) > CHUNKS
    if large or not (compressor is None or compressor["id"] == "zstd"):
        raise DamagedError(f"{visible(name)} is stored in a way that jaxcnn does not write")
    for index in itertools.product(*map(range, counts)):
        yield form.get("dimension_separator", ".").join(map(str, index)) or "0"


def _check_chunk(name: str, raw: bytes, part: list[Any]) -> None:
    size = math.prod(part[1]) * _dtype(name, part[0]).itemsize
    if decoded_size(raw) > 2 * size + 2**20:
        raise DamagedError(f"{visible(name)} would decode to more than its record says")


def digests(x: Any) -> list[list[Any]]:
    """Return `[first, SHA-256]` for each shard of an array in this process; replicas count once over all processes."""
    if isinstance(x, jax.Array):
        pieces = [(s.index, s.data) for s in x.addressable_shards if s.replica_id == 0]
    else:
        pieces = [((), x)]
    return [[[part.start or 0 for part in index], sha256(np.asarray(piece))] for index, piece in pieces]


def _unchanged(x: np.ndarray, part: list[Any]) -> bool:
    dtype, shape, listed = part
    kept = {(tuple(first), digest) for first, digest in listed}  # processes that all hold the whole array all list it
    if (str(x.dtype), list(x.shape)) != (dtype, shape) or not kept:
        return False
    size = _part_size(shape, [first for first, _ in kept])
    if len(kept) * math.prod(size) > max(math.prod(shape), 1):  # no run has overlapping parts; digesting them is slow
        return False

    def part_at(first: tuple[int, ...]) -> np.ndarray:
        return x[tuple(slice(a, a + n) for a, n in zip(first, size, strict=False))]

    return all(sha256(part_at(first)) == digest for first, digest in kept)


def _part_size(shape: list[int], firsts: list[tuple[int, ...]]) -> list[int]:
    """Return the size of the parts. They are equal, so it is the smallest start above 0 along each axis."""
    return [min([f[i] for f in firsts if f and f[i] > 0], default=n) for i, n in enumerate(shape)]


def changed(flat: Mapping[str, np.ndarray], parts: Mapping[str, list[Any]]) -> str | None:
    """Find an array that differs from the saved one.

    Args:
        flat: the arrays, `{path: array}`.
        parts: dtype, shape and digests of each saved array.

    Returns:
        The path of such an array, or None.

    """
    if set(flat) != set(parts):
        return min(set(flat) ^ set(parts))
    return next((name for name, part in parts.items() if not _unchanged(flat[name], part)), None)
