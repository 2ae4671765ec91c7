"""Warnings about rows or files that occur in more than one part of a data set."""

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxcnn.data.core import Resident, Splits

log = logging.getLogger("jaxcnn")


def tell_copies(splits: Splits, name: str, key: str = "image", top: pathlib.Path | None = None) -> None:
    """Log a warning if test or validation rows are training rows too.

    Args:
        splits: the parts. Rows in memory are compared by value, others by their files, whatever links lead there.
        name: name of the data set, for the message.
        key: the array that is compared.
        top: the folder that the names of the rows are relative to; None if they are not files.

    """
    parts = splits._asdict()
    if all(isinstance(part, Resident) for part in splits):
        rows = {part: [hash(row.tobytes()) for row in data.arrays[key]] for part, data in parts.items()}
        _tell(rows, name, "images" if key == "image" else "rows", ", value for value")
    elif top is not None:
        _tell({part: [_file(top / row) for row in data.names or ()] for part, data in parts.items()}, name, "files")


def _file(path: pathlib.Path) -> Any:
    """Return what a file is recognised by, whatever links lead to it."""
    try:
        found = os.stat(path)
    except OSError:
        return path
    return found.st_dev, found.st_ino


def _tell(rows: Mapping[str, list[Any]], name: str, what: str, how: str = "") -> None:
    known = set(rows["train"])
    found = {part: sum(row in known for row in rows.get(part, ())) for part in ("test", "valid")}
    parts = {part: part.replace("valid", "validation") for part, count in found.items() if count}
    shared = [f"{found[part]} of {len(rows[part])} {shown} {what}" for part, shown in parts.items()]
    if shared:
        log.warning("%s: %s are among the training %s too%s", name, " and ".join(shared), what, how)
