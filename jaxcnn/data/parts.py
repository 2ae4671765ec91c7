"""What the parts of a data set have in common, and should not."""

import logging
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxcnn.data.core import Resident, Splits

log = logging.getLogger("jaxcnn")


def tell_copies(splits: Splits, name: str) -> None:
    """Say in one line how many rows to measure on are also rows to learn from, value for value, where they are in memory."""
    if all(isinstance(part, Resident) for part in splits):
        rows = {part: [hash(row.tobytes()) for row in data.arrays["image"]] for part, data in splits._asdict().items()}
        _tell(rows, name, "images", "value for value")


def tell_same_files(files: Mapping[str, Iterable[pathlib.Path]], name: str) -> None:
    """Say in one line how many files to measure on are also files to learn from, by links or otherwise."""
    _tell(
        {part: [(s.st_dev, s.st_ino) for s in map(os.stat, mine)] for part, mine in files.items()},
        name,
        "files",
        "by links",
    )


def _tell(rows: Mapping[str, list[Any]], name: str, what: str, how: str) -> None:
    known = set(rows["train"])
    found = {part: sum(row in known for row in rows.get(part, ())) for part in ("test", "valid")}
    told = [
        f"{count} of {len(rows[part])} {part.replace('valid', 'validation')} {what}"
        for part, count in found.items()
        if count
    ]
    if told:
        log.warning("%s: %s are among the training %s too, %s", name, " and ".join(told), what, how)
