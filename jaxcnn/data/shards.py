"""Truncated or missing shards of a prepared TFDS set: finding them, and a split without their rows."""

import concurrent.futures
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from jaxcnn.core.files import opened
from jaxcnn.core.types import InputError
from jaxcnn.data.core import OnBad

RECORD = 2**27  # most bytes of a record
CHUNK, MOST_RECORDS = 2**28, 2**24  # most bytes and records of a chunk; TFDS writes one record, or the index, per chunk
KINDS = (b"s", b"m", b"p", b"r")  # kinds of chunks: signature, metadata, padding, records; TFDS writes no other kind
Range = tuple[int, int]


def ranges(split: str, rows: int) -> tuple[str, list[Range]]:
    """Return the name and the row ranges of a split such as `train[10:20]+train[30:]`; `rows` is the number in all."""
    found = [cast(re.Match[str], re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", part)) for part in split.split("+")]
    return found[0][1], [(int(m[2] or 0), int(m[3] or rows)) for m in found]


def joined(name: str, parts: list[Range]) -> str:
    """Return the split with these row ranges, the inverse of `ranges`."""
    return "+".join(f"{name}[{a}:{b}]" for a, b in parts) or f"{name}[:0]"


class Shard(NamedTuple):
    """One file of a split.

    Attributes:
        path: path of the file.
        rows: range of the split's rows in the file, as `dataset_info.json` states.
        found: number of records in the file; -1 if it cannot be read.
        largest: most bytes that reading one of its records takes; 0 if the size of the file is a sufficient bound.

    """

    path: str
    rows: Range
    found: int
    largest: int


def cut(builder: Any, split: str) -> list[Shard]:
    """Return the shards whose number of records differs from `dataset_info.json`."""
    return [s for s in _shards(builder, split, lambda rows: True) if s.found != s.rows[1] - s.rows[0]]


def _shards(builder: Any, split: str, wanted: Callable[[Range], bool]) -> list[Shard]:
    """Count the records of the shards whose rows are wanted; a shard that should have no records may be missing."""
    info = builder.info.splits[split.split("+")[0].partition("[")[0]]
    count = _array_records if "array_record" in str(builder.info.file_format).lower() else _tf_records
    stated = []
    for path, n, end in zip(
        map(os.fspath, info.filepaths), info.shard_lengths, itertools.accumulate(info.shard_lengths), strict=True
    ):
        if wanted((end - n, end)) and (n or os.path.lexists(path)):
            stated.append((path, (end - n, end)))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # the threads mostly wait for the disk
        counted = pool.map(count, [path for path, _ in stated])
        return [Shard(path, rows, *found) for (path, rows), found in zip(stated, counted, strict=True)]


def refuse_cut(builder: Any, split: str) -> int:
    """Refuse a split if one of its shards has a different number of records than `dataset_info.json` states.

    Args:
        builder: a prepared TFDS builder.
        split: the split; shards without rows in it are not checked.

    Returns:
        Most bytes that reading one record takes.

    Raises:
        InputError: There is such a shard; the message names the first.

    """
    _, parts = ranges(split, builder.info.splits[split.split("+")[0].partition("[")[0]].num_examples)
    shards = _shards(builder, split, lambda rows: _overlap(rows, parts) > 0)
    _refuse(shards)
    return max((s.largest for s in shards), default=0)


def refuse_unstated(builder: Any, split: str) -> None:
    """Refuse a split if a shard has records where `dataset_info.json` states none; TFDS would silently ignore them.

    Args:
        builder: a prepared TFDS builder.
        split: the split.

    Raises:
        InputError: There is such a shard; the message names the first.

    """
    try:
        _refuse(_shards(builder, split, lambda rows: rows[0] == rows[1]))
    except InputError as error:
        raise InputError(
            f"{builder.data_path}: split {split}: {error}; delete the folder and prepare the set again"
        ) from None


def _refuse(shards: list[Shard]) -> None:
    for path, (first, last), found, _ in shards:
        if found != last - first:
            stated = f"{os.path.basename(path)} does not hold the {last - first} records that dataset_info.json states"
            raise InputError(f"{stated}, or holds them in a form that cannot be read")


def _overlap(rows: Range, parts: list[Range]) -> int:
    """Number of the rows that are in the parts."""
    return sum(max(min(b, rows[1]) - max(a, rows[0]), 0) for a, b in parts)


def named(builder: Any, split: str) -> str:
    """Return the end of a message that names the truncated shards of a split."""
    try:
        return "".join(f"; {os.path.basename(path)} is cut or missing" for path, *_ in cut(builder, split))
    except Exception:  # an error here must not replace the message
        return ""


def sound(builder: Any, split: str, on_bad: OnBad) -> str:
    """Return the split without the rows of truncated shards.

    Args:
        builder: a prepared TFDS builder.
        split: the split.
        on_bad: called with a message and the number of lost examples for each truncated shard.

    """
    name, parts = ranges(split, builder.info.splits[split.partition("[")[0]].num_examples)
    found = cut(builder, split)
    for path, (first, last), there, _ in found:
        if first == last:
            on_bad(f"{path}: holds records where dataset_info.json states none; they are left out", max(there, 0))
        elif lost := _overlap((first, last), parts):
            on_bad(f"{path}: cut or missing, its {lost} examples of split {split} are left out", lost)
        kept = [(max(a, lo), min(b, hi)) for a, b in parts for lo, hi in ((0, first), (last, b))]
        parts = [(a, b) for a, b in kept if a < b]
    return joined(name, parts) if found else split


def _tf_records(path: str) -> tuple[int, int]:
    return tf_records(path), 0


def _array_records(path: str) -> tuple[int, int]:
    """Return the number of records, -1 if a chunk is damaged or too large, and the bytes of the largest chunk."""
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue] (compiled)

    largest = 0
    try:
        for kind, records, decoded in _chunks(path):
            if kind not in KINDS or decoded > CHUNK or records > MOST_RECORDS:
                return -1, 0
            largest = max(largest, decoded)
    except (OSError, InputError):
        return -1, 0
    reader = array_record_module.ArrayRecordReader(path)
    return (reader.num_records() if reader.ok() else -1), largest


def _chunks(path: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield `(kind, number of records, decompressed bytes)` from the header of each chunk of an `array_record` file.

    The format is Riegeli's: there is a block header of 24 bytes every 64 KiB, also within chunks, and a chunk header
    has 40 bytes. Riegeli's reader allocates the stated number of bytes, and fails if the data are longer.
    """
    block, gap, head = 2**16, 24, 40
    with opened(path) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            found, place = b"", at
            while len(found) < head:
                place += max(gap - place % block, 0)
                file.seek(place)
                part = file.read(min(head - len(found), block - place % block))
                if not part:
                    raise InputError(f"{path}: cut")
                found, place = found + part, place + len(part)
            data, records, decoded = (int.from_bytes(found[i:j], "little") for i, j in ((8, 16), (25, 32), (32, 40)))
            yield found[24:25], records, decoded
            length = head + data
            end = at + length + (length + (at + block - gap - 1) % block) // (block - gap) * gap
            padded = at + records  # a chunk has at least one byte per record
            at = max(end, padded + max(-padded % block - (block - gap - 1), 0))


def tf_records(path: str) -> int:
    """Count records by their stated lengths, without reading them; -1 if a length is 0, too large, or beyond the file.

    TensorFlow allocates the stated length before it checks the size of the file.
    """
    count = at = 0
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            while at < size:
                file.seek(at)
                length = int.from_bytes(file.read(8), "little")
                if not 0 < length <= min(size - at - 16, RECORD):  # the length and two checksums take 16 bytes
                    return -1
                at += length + 16
                count += 1
    except (OSError, InputError):
        return -1
    return count
