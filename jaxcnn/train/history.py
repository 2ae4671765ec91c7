"""The rows of a run's history, in a file beside its checkpoints. Each save appends only the new rows.

`history.jsonl` has one JSON object per line. A checkpoint stores a mark: the number of lines that belong to it, their
size in bytes and their SHA-256. Lines after the mark belong to a later checkpoint and are ignored if it is absent.
"""

import hashlib
import json
import logging
import math
import os
import pathlib
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.types import InputError, reason

log = logging.getLogger("jaxcnn")


class History:
    """A reader and writer of `history.jsonl` that knows where the next row goes.

    Args:
        folder: the folder of the checkpoints.

    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "history.jsonl"
        self.begin()

    def begin(self) -> None:
        """Start over: the next `add` writes all rows."""
        self.rows, self.bytes, self.digest = 0, 0, hashlib.sha256()

    def add(self, rows: Sequence[Mapping[str, Any]], write: bool = True) -> dict[str, Any]:
        """Append the rows that are not in the file yet.

        Args:
            rows: all rows of the run.
            write: whether this process writes the file; False in all processes but one.

        Returns:
            The mark that the checkpoint stores.

        Raises:
            OSError: the file cannot be written. The next call writes these rows too.

        """
        first, start, digest = self.rows, self.bytes, self.digest.copy()
        new = _lines(rows[first:])
        if write and rows:
            with _opened(self.path) as file:
                if file.seek(0, os.SEEK_END) < start:  # something else cut or deleted it
                    start, digest, new = 0, hashlib.sha256(), _lines(rows)
                file.truncate(start)
                file.seek(start)
                file.write(new)
        digest.update(new)
        self.rows, self.bytes, self.digest = len(rows), start + len(new), digest
        return {"rows": self.rows, "bytes": self.bytes, "sha256": digest.hexdigest()}

    def read(self, mark: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Read the rows of a checkpoint; later rows are appended after them.

        Args:
            mark: the mark that the checkpoint stores.

        Returns:
            The rows, or None, with a warning, if they are not the rows that were written.

        """
        self.begin()
        if not mark["rows"]:
            return []
        try:
            with files.opened(self.path) as file:
                raw = file.read(mark["bytes"]) if 0 <= mark["bytes"] <= os.fstat(file.fileno()).st_size else b""
            digest = hashlib.sha256(raw)
            if len(raw) != mark["bytes"] or digest.hexdigest() != mark["sha256"]:
                raise InputError("the rows differ from those that were saved")
            rows = [decoded(files.parse_json(line, self.path.name)) for line in raw.splitlines()]
            if len(rows) != mark["rows"] or not all(
                isinstance(row, dict) and type(row.get("step")) is int for row in rows
            ):
                raise InputError("a line is not a row of a run")
        except (OSError, InputError) as error:
            log.warning(
                "%s is damaged (%s): the run's earlier rows are lost, but its weights are not", self.path, reason(error)
            )
            return None
        self.rows, self.bytes, self.digest = mark["rows"], mark["bytes"], digest
        return rows


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(coded(row), default=repr, allow_nan=False) + "\n" for row in rows).encode()


def coded(value: Any) -> Any:
    """Replace arrays, NaN and infinities by values that strict JSON has. `decoded` restores them."""
    if isinstance(value, Mapping):
        return {str(k): coded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [coded(v) for v in value]
    if isinstance(value, np.ndarray):
        return {"array": coded(value.tolist()), "dtype": value.dtype.name}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def decoded(value: Any) -> Any:
    """Undo `coded`."""
    if isinstance(value, dict):
        plain = {k: decoded(v) for k, v in value.items()}
        return _array(**plain) if plain.keys() == {"array", "dtype"} else plain
    if isinstance(value, list):
        return [decoded(v) for v in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _array(array: Any, dtype: Any) -> np.ndarray:
    """Build an array from its JSON form.

    Raises:
        InputError: the values are not an array of the given dtype.

    """
    try:
        if not (isinstance(dtype, str) and re.fullmatch(r"bool|u?int\d+|float\d+", dtype)):
            raise ValueError
        return np.array(array, dtype)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"not an array of {str(dtype)[:20]!r}") from None


def _opened(path: pathlib.Path) -> BinaryIO:
    """Open a regular file for reading and writing. Anything else of that name, such as a link, is replaced."""
    try:
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            path.rename(path.with_name(f"{path.name}.damaged"))
        elif not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()
    except FileNotFoundError:
        pass
    flags = os.O_RDWR | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    return os.fdopen(os.open(path, flags, 0o666), "r+b")
