"""What lies in a checkpoint's folder, read as files that nobody vouches for: sizes are checked before anything is allocated.

Arrays are read with TensorStore itself, because Orbax would follow links, wait at pipes and believe whatever size is declared.
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

LARGEST = 2**31  # steps are int32
SLACK, RATIO = 2**28, 100  # bytes that a checkpoint may declare: so many, and so many for each byte that its files have
CHUNKS = 2**16  # that an array may be divided into; there are as many as devices that divided it
BLOCK = 2**17  # bytes that one block of zstd can decode to


class DamagedError(Exception):
    """A checkpoint that cannot be trusted; the message says why."""


class Sealed(TypedDict):
    """The record beside the arrays, as it is in the file."""

    format: int
    loop: dict[str, Any]
    parts: dict[str, list[Any]]
    digest: str


class History(TypedDict):
    """How much of `history.jsonl` belongs to a checkpoint."""

    rows: int
    bytes: int
    sha256: str


class Loop(TypedDict, total=False):
    """What is known of a loop record's fields; others may be there."""

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
    """Return the digest over a record."""
    return hashlib.sha256(json.dumps([parts, loop], sort_keys=True).encode()).hexdigest()


def sha256(array: np.ndarray) -> str:
    """Return the digest of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def weighed(folder: pathlib.Path) -> tuple[int, int]:
    """Return the bytes of all files in a folder, and how many of them the disk really holds: a file may be a hole.

    Raises:
        DamagedError: there is anything but plain files and folders in it, such as a link or a pipe, or it is none itself.

    """
    total, held, waiting = 0, 0, [folder]
    if not stat.S_ISDIR(_mode(folder)):
        raise DamagedError("it is no folder")
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
    """Read the record of a checkpoint, and check its form, its seal and its values.

    Raises:
        DamagedError: it is not what was saved, or does not fit.
        InputError: its format is not among those that this program knows.

    """
    path = folder / "loop" / "metadata"
    try:
        record = files.read_json(path)
        known = isinstance(record, dict) and type(record.get("format")) is int
        if known and record["format"] not in formats:
            other = "newer" if record["format"] >= formats.stop else "older"
            raise _FormatError(
                f"checkpoint {folder.name} has format {record['format']}, {other} than this program's {formats[-1]}: use that jaxcnn"
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
    """Refuse numbers that no loop has."""
    for name in ("rows", "stale", "best_step", "batch_size"):
        value = loop.get(name)
        if value is not None and not 0 <= value < LARGEST:
            raise DamagedError(f"its record has {name}={value}")
    for name in ("best", "seconds"):
        value = loop.get(name)
        if value is not None and not math.isfinite(value):
            raise DamagedError(f"its record has {name}={value}")
    if any(len(pair) != 2 or not all(0 <= n < LARGEST for n in pair) for pair in loop.get("passed", ())):
        raise DamagedError("its record leaves out batches that there cannot be")


def _check_part(name: str, part: list[Any]) -> None:
    """Check `[dtype, shape, [[first, SHA-256], ...]]`."""

    def natural(values):
        return isinstance(values, list) and all(type(n) is int and 0 <= n < 2**40 for n in values)

    good = (
        len(part) == 3
        and isinstance(part[0], str)
        and natural(part[1])
        and len(part[1]) <= 32
        and isinstance(part[2], list)
    )
    good = good and all(
        isinstance(d, list)
        and len(d) == 2
        and natural(d[0])
        and len(d[0]) in (0, len(part[1]))
        and isinstance(d[1], str)
        for d in part[2]
    )
    if not good:
        raise DamagedError(f"its record describes {visible(name)} in a way that no array has")


def check_sizes(folder: pathlib.Path, parts: Mapping[str, list[Any]], known: bool) -> None:
    """Check that what a record declares and what the files hold can belong together.

    Args:
        folder: of the checkpoint.
        parts: what the record says of its arrays, checked.
        known: whether these are the arrays that are expected; else they may not be much larger than the files.

    Raises:
        DamagedError: they do not, or there is a dtype that does not exist.

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
        raise DamagedError(f"its record gives {visible(name)} the dtype {visible(dtype)}, which there is not")
    return found


def read_arrays(folder: pathlib.Path, parts: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Read `{path: array}`, and compare each with its digests.

    Args:
        folder: of the arrays, `<step>/state`.
        parts: what the record says of them, checked.

    Raises:
        DamagedError: what is stored is not what the record says.

    """
    import tensorstore as ts

    base, context = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}, ts.Context()
    store = ts.KvStore.open(base, context=context).result()
    wanted = {name: part for name, part in parts.items() if 0 not in part[1]}  # Orbax saves no array without elements

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
    """Check what an array's own metadata says, before it is believed, and list the keys of its chunks."""
    form = array.spec().to_json()["metadata"]
    compressor, (dtype, shape, _) = form["compressor"], part
    if (list(array.shape), str(np.dtype(array.dtype.numpy_dtype))) != (shape, dtype):
        raise DamagedError(f"{visible(name)} has another shape or dtype than its record says")
    counts = [-(-n // max(chunk, 1)) for chunk, n in zip(form["chunks"], shape, strict=True)]
    large = any(chunk > n for chunk, n in zip(form["chunks"], shape, strict=True)) or math.prod(counts) > CHUNKS
    if large or not (compressor is None or compressor["id"] == "zstd"):
        raise DamagedError(f"{visible(name)} is stored in a way that no jaxcnn writes")
    for index in itertools.product(*map(range, counts)):
        yield form.get("dimension_separator", ".").join(map(str, index)) or "0"


def _check_chunk(name: str, raw: bytes, part: list[Any]) -> None:
    size = math.prod(part[1]) * _dtype(name, part[0]).itemsize
    if _decoded(raw) > 2 * size + 2**20:
        raise DamagedError(f"{visible(name)} would decode to more than its record says")


def _decoded(raw: bytes) -> int:
    """Return the most bytes that zstd frames can decode to, from the headers of their blocks (RFC 8878); else the bytes themselves."""
    at = total = 0
    if raw[:4] != b"\x28\xb5\x2f\xfd":
        return len(raw)  # stored as it is, or refused by TensorStore
    while at < len(raw):
        magic = int.from_bytes(raw[at : at + 4], "little")
        if magic >> 4 == 0x184D2A5:  # a frame to skip
            at += 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
            continue
        if magic != 0xFD2FB528 or at + 5 > len(raw):
            break
        flags = raw[at + 4]
        single, size_field = flags >> 5 & 1, flags >> 6
        at += 6 - single + (0, 1, 2, 4)[flags & 3] + (single if size_field == 0 else 1 << size_field)
        last = 0
        while not last and at < len(raw):
            head = int.from_bytes(raw[at : at + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            at += 3 + (1 if kind == 1 else size)
            total += BLOCK if kind == 2 else size
        at += 4 * (flags >> 2 & 1)  # a checksum
    return total


def digests(x: Any) -> list[list[Any]]:
    """Return `[first, SHA-256]` for each part of an array that this process holds, once in all processes together."""
    pieces = (
        [(s.index, s.data) for s in x.addressable_shards if s.replica_id == 0]
        if isinstance(x, jax.Array)
        else [((), x)]
    )
    return [[[part.start or 0 for part in index], sha256(np.asarray(piece))] for index, piece in pieces]


def _unchanged(x: np.ndarray, part: list[Any]) -> bool:
    dtype, shape, listed = part
    kept = {(tuple(first), digest) for first, digest in listed}  # processes that each hold the whole say it each
    if (str(x.dtype), list(x.shape)) != (dtype, shape) or not kept:
        return False
    size = _part_size(shape, [first for first, _ in kept])
    if len(kept) * math.prod(size) > max(
        math.prod(shape), 1
    ):  # parts that overlap: no run divides so, and it would take for ever
        return False
    return all(
        sha256(x[tuple(slice(a, a + n) for a, n in zip(first, size, strict=False))]) == digest for first, digest in kept
    )


def _part_size(shape: list[int], firsts: list[tuple[int, ...]]) -> list[int]:
    """Parts are alike, so the smallest beginning above 0 is how long they are."""
    return [min([f[i] for f in firsts if f and f[i] > 0], default=n) for i, n in enumerate(shape)]


def changed(flat: Mapping[str, np.ndarray], parts: Mapping[str, list[Any]]) -> str | None:
    """Name the first array that is not what was saved."""
    if set(flat) != set(parts):
        return min(set(flat) ^ set(parts))
    return next((name for name, part in parts.items() if not _unchanged(flat[name], part)), None)
