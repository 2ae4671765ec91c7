"""Shards of a prepared TFDS set that are cut or missing: which they are, and what is left of a split without them."""

import os
import re
from typing import Any

from jaxcnn.data.core import OnBad
from jaxcnn.files import opened
from jaxcnn.types import InputError

RECORD = 2**27  # bytes of one record
Range = tuple[int, int]


def ranges(split: str, rows: int) -> tuple[str, list[Range]]:
    """Return name and rows of a split such as `train[10:20]+train[30:]`, of `rows` altogether."""
    found = [re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", part) for part in split.split("+")]
    return found[0][1], [(int(m[2] or 0), int(m[3] or rows)) for m in found]


def joined(name: str, parts: list[Range]) -> str:
    """Return the split that is these rows."""
    return "+".join(f"{name}[{a}:{b}]" for a, b in parts) or f"{name}[:0]"


def cut(builder: Any, split: str) -> list[tuple[str, Range]]:
    """Find the shards that hold fewer records than TFDS wrote: their paths, and which rows of the whole split they are."""
    info, at, found = builder.info.splits[split.split("+")[0].partition("[")[0]], 0, []
    count = _array_records if "array_record" in str(builder.info.file_format).lower() else tf_records
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        if count(os.fspath(path)) != length:
            found.append((os.fspath(path), (at, at + length)))
        at += length
    return found


def refuse_cut(builder: Any, split: str) -> None:
    """Refuse a split of which a shard holds other rows than `dataset_info.json` states, unless none of them are in the split.

    Raises:
        InputError: it names the first such shard.

    """
    _, parts = ranges(split, builder.info.splits[split.split("+")[0].partition("[")[0]].num_examples)
    for path, (first, last) in cut(builder, split):
        if first == last or any(max(a, first) < min(b, last) for a, b in parts):
            raise InputError(f"{os.path.basename(path)} does not hold the {last - first} records that dataset_info.json states")


def named(builder: Any, split: str) -> str:
    """Say which shards are cut, for a message."""
    try:
        return "".join(f"; {os.path.basename(path)} is cut or missing" for path, _ in cut(builder, split))
    except Exception:  # the message it would be part of matters more
        return ""


def sound(builder: Any, split: str, on_bad: OnBad) -> str:
    """Return the split without the rows of shards that are cut, each of which `on_bad` is told."""
    name, parts = ranges(split, builder.info.splits[split.partition("[")[0]].num_examples)
    found = cut(builder, split)
    for path, (first, last) in found:
        lost = sum(max(min(b, last) - max(a, first), 0) for a, b in parts)
        if lost:
            on_bad(f"{path}: cut or missing, its {lost} examples of split {split} are left out", lost)
        parts = [(max(a, lo), min(b, hi)) for a, b in parts for lo, hi in ((0, first), (last, b)) if max(a, lo) < min(b, hi)]
    return joined(name, parts) if found else split


def _array_records(path: str) -> int:
    from array_record.python import array_record_module

    reader = array_record_module.ArrayRecordReader(path)
    return reader.num_records() if reader.ok() else -1


def tf_records(path: str) -> int:
    """Count records by their lengths, without reading what they hold; -1 where one states more bytes than there are, or too many.

    TensorFlow reserves what a record states before it looks at how much the file has.
    """
    count = at = 0
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            while at < size:
                file.seek(at)
                length = int.from_bytes(file.read(8), "little")
                if length > min(size - at - 16, RECORD):  # 16: the length and the two checksums
                    return -1
                at += length + 16
                count += 1
    except (OSError, InputError):
        return -1
    return count
