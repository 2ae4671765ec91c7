"""Warnings about rows or files that occur in more than one part of a data set."""

import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxcnn.data.core import Resident, Splits

log = logging.getLogger("jaxcnn")


def tell_copies(splits: Splits, name: str, key: str = "image") -> None:
    """Log a warning if test or validation rows in memory are equal to training rows.

    Args:
        splits: the parts.
        name: name of the data set, for the message.
        key: the array that is compared.

    """
    if all(isinstance(part, Resident) for part in splits):
        rows = {part: [hash(row.tobytes()) for row in data.arrays[key]] for part, data in splits._asdict().items()}
        _tell(rows, name, "images" if key == "image" else "rows", "value for value")


def tell_same_files(files: Mapping[str, Iterable[pathlib.Path]], name: str) -> None:
    """Log a warning if test or validation files are also training files, for example through links.

    Args:
        files: dict from part to its files.
        name: name of the data set, for the message.

    """
    rows = {part: [(s.st_dev, s.st_ino) for s in map(os.stat, mine)] for part, mine in files.items()}
    _tell(rows, name, "files", "by links")


def _tell(rows: Mapping[str, list[Any]], name: str, what: str, how: str) -> None:
    known = set(rows["train"])
    found = {part: sum(row in known for row in rows.get(part, ())) for part in ("test", "valid")}
    parts = {part: part.replace("valid", "validation") for part, count in found.items() if count}
    shared = [f"{found[part]} of {len(rows[part])} {shown} {what}" for part, shown in parts.items()]
    if shared:
        log.warning("%s: %s are among the training %s too, %s", name, " and ".join(shared), what, how)
