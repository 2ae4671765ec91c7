"""The labels that people gave, in a CSV file with the columns `file` and `label`, as `data.table` reads it.

Where a run has answered some of the images, a third column, `by`, says `person` or `model`.
"""

import csv
import functools
import io
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.cells import is_number
from jaxcnn.data.table import FILE, LABEL
from jaxcnn.data.table import read as read_table

LONGEST = 100  # characters of the name of a class
HEADER, BY = (FILE, LABEL), "by"
PERSON, MODEL = "person", "model"


class Labels(NamedTuple):
    """The rows of a CSV file.

    Attributes:
        path: of the file.
        rows: from paths, relative to the folder of the file, to names of classes, in the order of the file.
        model: the paths whose class is the answer of a run.
        marked: whether the file has the column `by`.
        stamp: modification time and size of the file, by which a later change is noticed; None if there was no file.

    """

    path: pathlib.Path
    rows: Mapping[str, str]
    model: frozenset[str] = frozenset()
    marked: bool = False
    stamp: tuple[int, int] | None = None

    def person(self, name: str) -> bool:
        """Whether a person gave the label of a file."""
        return name in self.rows and name not in self.model


def read(path: str | os.PathLike) -> Labels:
    """Read the labels of a file; there are none if it does not exist, or has only its header.

    Paths are brought to one form: `./a.png` and the absolute path are `a.png`.

    Raises:
        InputError: the file is no CSV file with these columns alone, has a file twice, a label is not the name of a
            class, it was given by someone other than `person` or `model`, or some classes are numbers and others
            are not.

    """
    path = pathlib.Path(path)
    stamp = _stamp(path)
    content = files.read_bytes(path).decode("utf-8-sig", "replace").strip() if path.exists() else ""
    columns = [column.strip() for column in content.split(",")]
    if not content or "\n" not in content and sorted(set(columns) - {BY}) == sorted(HEADER):
        return Labels(path, {}, marked=BY in columns, stamp=stamp)
    table = read_table(path)
    if sorted(set(table.header) - {BY}) != sorted(HEADER):
        has = ", ".join(map(visible, table.header))
        raise InputError(f"{visible(path)}: has the columns {has}; labels go to a file with file and label alone")
    marked = BY in table.header
    rows: dict[str, str] = {}
    for given, label, line in zip(table.column(FILE), table.column(LABEL), table.lines, strict=True):
        name = _relative(given, path)
        if name in rows:
            raise InputError(
                f"{visible(path)}: line {line}: {visible(name)[:200]} comes twice; remove one of the lines"
            )
        try:
            rows[name] = checked_class(label)
        except InputError as error:
            raise InputError(f"{visible(path)}: line {line}: {error}") from error
    try:
        check_kind(list(rows.values()))
    except InputError as error:
        raise InputError(f"{visible(path)}: {error}") from error
    return Labels(path, rows, _answered(path, table) if marked else frozenset(), marked, stamp)


def current(labels: Labels) -> Labels:
    """Return the labels, read again if another program has changed the file; if it is gone or empty, they stay.

    Raises:
        InputError: as `read`.

    """
    stamp = _stamp(labels.path)
    return labels if stamp in (None, labels.stamp) or stamp[1] == 0 else read(labels.path)


def _stamp(path: pathlib.Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


def _relative(name: str | pathlib.Path, path: pathlib.Path) -> str:
    """Return the path of a file relative to the folder of the CSV file, with links to folders resolved."""
    if not name:
        return ""
    folder, own = os.path.split(path.parent / name)
    return os.path.relpath(os.path.join(_real(folder), own), _real(str(path.parent))).replace(os.sep, "/")


@functools.lru_cache(4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _answered(path: pathlib.Path, table: Any) -> frozenset[str]:
    """Return the paths that a run has answered."""
    model = set()
    for name, by, line in zip(table.column(FILE), table.column(BY), table.lines, strict=True):
        if by not in (PERSON, MODEL):
            raise InputError(f"{visible(path)}: line {line}: by {visible(by)[:80]!r}: must be {PERSON} or {MODEL}")
        if by == MODEL:
            model.add(_relative(name, path))
    return frozenset(model)


def changed(labels: Labels, name: str, label: str | None, by: str = PERSON) -> Labels:
    """Return the labels with that of one file, or without it."""
    rows = {**labels.rows, name: label or ""}
    if label is None:
        del rows[name]
    model = labels.model - {name} | ({name} if label is not None and by == MODEL else set())
    return labels._replace(rows=rows, model=frozenset(model), marked=labels.marked or bool(model))


def answered(labels: Labels, found: Mapping[str, str], asked: Iterable[str]) -> Labels:
    """Return the labels with the answers of a run for some files in place of earlier answers for these.

    Args:
        labels: the labels so far; those that people gave stay, and the answers for other files.
        found: the answers.
        asked: all files that the run was asked about.

    """
    old = labels.model & set(asked)
    rows = {name: label for name, label in labels.rows.items() if name not in old}
    more = {name: label for name, label in found.items() if name not in rows}
    model = labels.model - old | frozenset(more)
    return labels._replace(rows={**rows, **more}, model=model, marked=labels.marked or bool(more))


def write(labels: Labels) -> Labels:
    """Write the file as a whole or not at all, and return the labels with its new stamp.

    Raises:
        OSError: it cannot be written; the old file is still there.

    """
    made = io.StringIO(newline="")
    writer = csv.writer(made, lineterminator="\n")
    writer.writerow((*HEADER, BY) if labels.marked else HEADER)
    for name, label in labels.rows.items():
        by = (MODEL if name in labels.model else PERSON,) if labels.marked else ()
        writer.writerow((name, label, *by))
    files.write_bytes(labels.path.resolve(), made.getvalue().encode())  # a link stays a link
    return labels._replace(stamp=_stamp(labels.path))


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


def check_kind(classes: Sequence[str]) -> None:
    """Refuse classes of which some are numbers and others are not: training reads numbers as numbers.

    Raises:
        InputError: both are there.

    """
    numbers = [name for name in classes if is_number(name)]
    if numbers and len(numbers) < len(classes):
        text = next(name for name in classes if not is_number(name))
        raise InputError(
            f"classes {visible(text)[:80]!r} and {numbers[0]!r}: must all be numbers, or all be text; rename some"
        )


def names_in(path: pathlib.Path, images: Iterable[pathlib.Path]) -> tuple[list[pathlib.Path], list[str], int]:
    """Return the images that a CSV file can name, their names in it, and how many it cannot.

    Args:
        path: of the CSV file.
        images: paths of images.

    """
    kept, names, left = [], [], 0
    for image in images:
        name = _relative(image.absolute(), path)
        if name != name.strip() or not name.isprintable():  # surrogates of a name in another encoding do not print
            left += 1
            continue
        kept.append(image)
        names.append(name)
    return kept, names, left
