"""The labels that people gave, in a CSV file with the columns `file` and `label`, as `data.table` reads it."""

import csv
import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.table import FILE, LABEL
from jaxcnn.data.table import read as read_table

LONGEST = 100  # characters of the name of a class
HEADER = (FILE, LABEL)


class Labels(NamedTuple):
    """The rows of a CSV file.

    Attributes:
        path: of the file.
        rows: from paths, relative to the folder of the file, to names of classes, in the order of the file.

    """

    path: pathlib.Path
    rows: Mapping[str, str]


def read(path: str | os.PathLike) -> Labels:
    """Read the labels of a file; there are none if it does not exist, or has only its header.

    Raises:
        InputError: the file is no CSV file with these two columns alone, has a file twice, or a label is not the name
            of a class.

    """
    path = pathlib.Path(path)
    if not path.exists() or files.read_bytes(path).strip() in (b"", b"file,label"):
        return Labels(path, {})
    table = read_table(path)
    if sorted(table.header) != sorted(HEADER):
        has = ", ".join(map(visible, table.header))
        raise InputError(f"{visible(path)}: has the columns {has}; labels go to a file with file and label alone")
    rows: dict[str, str] = {}
    for name, label, line in zip(table.column(FILE), table.column(LABEL), table.lines, strict=True):
        if name in rows:
            raise InputError(
                f"{visible(path)}: line {line}: {visible(name)[:200]} comes twice; remove one of the lines"
            )
        try:
            rows[name] = checked_class(label)
        except InputError as error:
            raise InputError(f"{visible(path)}: line {line}: {error}") from error
    return Labels(path, rows)


def changed(labels: Labels, name: str, label: str | None) -> Labels:
    """Return the labels with that of one file, or without it."""
    rows = {**labels.rows, name: label or ""}
    if label is None:
        del rows[name]
    return labels._replace(rows=rows)


def write(labels: Labels) -> None:
    """Write the file as a whole or not at all.

    Raises:
        OSError: it cannot be written; the old file is still there.

    """
    made = io.StringIO(newline="")
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(labels.rows.items())
    files.write_bytes(labels.path, made.getvalue().encode())


def checked_class(name: str) -> str:
    """Return the name of a class.

    Raises:
        InputError: it is empty, too long, begins or ends with a space, or has characters that do not print.

    """
    if not name or name != name.strip() or len(name) > LONGEST or not name.isprintable() or "\ufeff" in name:
        raise InputError(
            f"class {visible(name)[:120]!r}: must be 1 to {LONGEST} characters that print, without spaces at the ends"
        )
    return name


def names_in(path: pathlib.Path, images: Iterable[pathlib.Path]) -> tuple[list[pathlib.Path], list[str], int]:
    """Return the images that a CSV file can name, their names in it, and how many it cannot.

    Args:
        path: of the CSV file.
        images: paths of images.

    """
    kept, names, left = [], [], 0
    for image in images:
        name = os.path.relpath(image, path.parent).replace(os.sep, "/")
        if name != name.strip() or not name.isprintable():  # surrogates of a name in another encoding do not print
            left += 1
            continue
        kept.append(image)
        names.append(name)
    return kept, names, left
