"""The log of a run: JSON lines and TensorBoard events, written row by row during training."""

import errno
import functools
import logging
import os
import pathlib
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxcnn.core import files
from jaxcnn.core.types import InputError, reason, scalars

log = logging.getLogger("jaxcnn")


class Log:
    """Writer of `metrics.jsonl` and TensorBoard events.

    The first write rewrites both files with the rows that a checkpoint kept; later writes append. While the disk is
    full or the folder cannot be written, rows stay in memory until the next write.

    Args:
        folder: folder of the run.
        steps_per_epoch: training steps in one epoch, to convert steps to epochs.

    """

    def __init__(self, folder: pathlib.Path, steps_per_epoch: float):
        self.folder, self.steps_per_epoch, self.rows, self.times = folder, steps_per_epoch, [], []
        self.grown: dict[Callable[..., bytes], Grown] = {}
        self.failed = False

    def _begin(self) -> None:
        """Remove the event files of an interrupted run; only the first write does so: a refused resume keeps them."""
        for old in self.folder.glob("events.out.tfevents.*"):
            if old.is_symlink() or not old.is_dir():
                old.unlink()
        events = self.folder / f"events.out.tfevents.{int(time.time()):010d}.jaxcnn"
        self.grown = {line: Grown(self.folder / "metrics.jsonl"), event: Grown(events, first_event)}

    def line(self, split: str, step: int, seconds: float, rate: float | None, values: Mapping[str, Any]) -> None:
        """Add one line; `write` writes it.

        Args:
            split: `"train"`, `"validation"` or `"test"`.
            step: training step.
            seconds: duration.
            rate: learning rate; None where there is none.
            values: dict from the name of a metric to its value.

        """
        row = {"step": step, "epoch": round(step / self.steps_per_epoch, 3), "split": split, **scalars(values)}
        row |= {"learning_rate": rate, "seconds": round(seconds, 4)}
        self.rows.append(row)
        self.times.append(time.time())

    def row(self, row: Mapping[str, Any]) -> None:
        """Add the training values and any validation values of one row of `fit`, and write all pending lines."""
        for split in ("train", "validation"):
            values = {k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")}
            if values:
                seconds = row["seconds"] if split == "train" else values.pop("seconds", 0.0)
                self.line(split, row["step"], seconds, row.get("learning_rate"), values)
        self.write()

    def write(self) -> None:
        """Write all pending lines; log a warning if that fails."""
        try:
            if not self.grown:
                self._begin()
            for encode, file in self.grown.items():
                file.add(self._encoded(encode, file.records), functools.partial(self._encoded, encode))
        except OSError as error:
            if not self.failed:
                log.warning("metrics are not written, %s (%s); they wait in memory", reason(error), self.folder)
            self.failed = True
            return
        self.failed = False

    def _encoded(self, encode: Callable[[float, Mapping[str, Any]], bytes], first: int = 0) -> list[bytes]:
        return [encode(*pair) for pair in zip(self.times[first:], self.rows[first:], strict=True)]


class Grown:
    """A file that grows by records, at a cost that does not depend on the number of records.

    The remains of a failed write are cut off before the next record. If the file is gone, or is no longer a regular
    file, it is rewritten.

    Args:
        path: path of the file.
        head: function that returns the bytes at the start of the file.

    """

    def __init__(self, path: pathlib.Path, head: Callable[[], bytes] = bytes):
        self.path, self.head, self.records, self.size, self.begun = path, head, 0, 0, False

    def add(self, new: list[bytes], every: Callable[[], list[bytes]]) -> None:
        """Add records.

        Args:
            new: the new records.
            every: function that returns all records, including the new ones; called if the file must be rewritten.

        """
        data = b"".join(new)
        if self.begun and self._append(data):
            self.records, self.size = self.records + len(new), self.size + len(data)
            return
        whole = every()
        data = self.head() + b"".join(whole)
        files.write_bytes(self.path, data)
        self.records, self.size, self.begun = len(whole), len(data), True

    def _append(self, data: bytes) -> bool:
        try:
            with files.appending(self.path) as file:
                handle = file.fileno()
                if os.fstat(handle).st_size < self.size:
                    return False
                os.ftruncate(handle, self.size)
                while data:
                    data = data[os.write(handle, data) :]
        except InputError:
            return False
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a pipe
                return False
            raise
        return True


def line(moment: float, row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of strict JSON."""
    del moment
    return f"{files.to_json(row)}\n".encode()


def event(moment: float, row: Mapping[str, Any]) -> bytes:
    """Return a row as an event for TensorBoard."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made at import)
    from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] (made at import)

    numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
    values = [Summary.Value(tag=f"{row['split']}/{name}", simple_value=value) for name, value in numbers.items()]
    return _framed(Event(wall_time=moment, step=row["step"], summary=Summary(value=values)).SerializeToString())


def first_event() -> bytes:
    """Return the first event of an event file."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] (made at import)

    return _framed(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())


def _framed(data: bytes) -> bytes:
    """Frame data as a TFRecord: length, checksum, data, checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
