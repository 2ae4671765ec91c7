"""A run's rows in a file of their own, beside its checkpoints: a save adds the new ones, however many there are.

`history.jsonl` has one JSON object a line. A checkpoint keeps how many lines belong to it, their bytes and their SHA-256; what
follows was written by a later save, which counts only where its checkpoint is there.
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
    """Where the next row goes.

    Args:
        folder: the checkpoints' own.

    """

    def __init__(self, folder: pathlib.Path):
        self.path = folder / "history.jsonl"
        self.begin()

    def begin(self) -> None:
        """Write from the first row on, the next time."""
        self.rows, self.bytes, self.digest = 0, 0, hashlib.sha256()

    def add(self, rows: Sequence[Mapping[str, Any]], write: bool = True) -> dict[str, Any]:
        """Add those of all rows that are not in the file yet.

        Args:
            rows: of the run, from its first on.
            write: false in all processes but one.

        Returns:
            What the checkpoint has to keep, to find them again.

        Raises:
            OSError: they cannot be written; they come with the next ones.

        """
        first, start, digest = self.rows, self.bytes, self.digest.copy()
        new = _lines(rows[first:])
        if write and rows:
            with _opened(self.path) as file:
                if file.seek(0, os.SEEK_END) < start:  # it was cut or deleted meanwhile
                    start, digest, new = 0, hashlib.sha256(), _lines(rows)
                file.truncate(start)
                file.seek(start)
                file.write(new)
        digest.update(new)
        self.rows, self.bytes, self.digest = len(rows), start + len(new), digest
        return {"rows": self.rows, "bytes": self.bytes, "sha256": digest.hexdigest()}

    def read(self, mark: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Return a checkpoint's rows, and go on behind them; None, and said, where they are not what was written."""
        self.begin()
        if not mark["rows"]:
            return []
        try:
            with files.opened(self.path) as file:
                raw = file.read(mark["bytes"]) if 0 <= mark["bytes"] <= os.fstat(file.fileno()).st_size else b""
            digest = hashlib.sha256(raw)
            if len(raw) != mark["bytes"] or digest.hexdigest() != mark["sha256"]:
                raise InputError("not what was saved (digest differs)")
            rows = [decoded(files.parse_json(line, self.path.name)) for line in raw.splitlines()]
            if len(rows) != mark["rows"] or not all(
                isinstance(row, dict) and type(row.get("step")) is int for row in rows
            ):
                raise InputError("not rows of a run")
        except (OSError, InputError) as error:
            log.warning(
                "%s is damaged (%s): the run's earlier rows are lost, its weights are not", self.path, reason(error)
            )
            return None
        self.rows, self.bytes, self.digest = mark["rows"], mark["bytes"], digest
        return rows


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(coded(row), default=repr, allow_nan=False) + "\n" for row in rows).encode()


def coded(value: Any) -> Any:
    """Replace arrays, and floats that strict JSON does not have, so that `decoded` gives the same again."""
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
    """Make an array of its values.

    Raises:
        InputError: they are no array of numbers.

    """
    try:
        if not (isinstance(dtype, str) and re.fullmatch(r"bool|u?int\d+|float\d+", dtype)):
            raise ValueError
        return np.array(array, dtype)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"not an array of {str(dtype)[:20]!r}") from None


def _opened(path: pathlib.Path) -> BinaryIO:
    """Open a file of our own to change it; whatever else lies there under its name, such as a link, is replaced."""
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
