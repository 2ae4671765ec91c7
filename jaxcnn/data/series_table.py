"""What the columns of a table of series are: its header, which column has the labels, and whether it is one at all."""

import math
import pathlib
import re
from collections.abc import Sequence

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import cells

NAMES = {"label", "class", "target", "y"}  # names of a column of labels, in lower case
STEPS = 3  # fewest values of a series by which a table is recognised
ENDS = {"first": 0, "last": -1}
Lines = list[tuple[int, list[str]]]


def place_of(label: str, first: Sequence[str], path: pathlib.Path) -> int:
    """Return the index of the column of labels, -1 for the last one.

    Args:
        label: `"first"`, `"last"` or a name in the header.
        first: cells of the first line.
        path: the file, for messages.

    Raises:
        InputError: There is no column of that name.

    """
    names = [cell.strip() for cell in first]
    at = ENDS.get(label, names.index(label) if label in names else None)
    if at is None:
        raise InputError(
            f"{visible(path)}: no column {visible(label)!r} in its first line; give 'first', 'last' or its name"
        )
    return at


def has_header(rows: Lines, label: str, at: int | None) -> bool:
    """Whether the first line has names of columns.

    Args:
        rows: the lines with their cells.
        label: `"first"`, `"last"` or a name in the header.
        at: index of the column of labels; None if there is none.

    """
    first = [cell.strip() for cell in rows[0][1]]
    others = first if at is None else _without(first, at)
    if at is not None and label not in ENDS:
        return True
    if others and all(cells.number(cell) is None for cell in others):
        return True
    counted = len(others) > 3 and any(others == [str(i + k) for i in range(len(others))] for k in (0, 1))
    if at is None:
        return counted and len(rows) > 1
    known, numeric = first[at].lower() in NAMES, all(cells.number(cell) is not None for cell in others)
    again = first[at] in {row[at % len(row)].strip() for _, row in rows[1:]}  # a class may be called `y` too
    return known and not numeric or (known or counted) and not again


def series_label(path: pathlib.Path, label: str = "", named: bool = False) -> str:
    """Return which column of a CSV file has the labels of series, one series per row.

    A table is one of series if all its columns but the one of labels have numbers or nothing, at least three of them,
    and if it has no header, or one that counts the steps, such as `t0,t1,t2`. The labels are in the column `label`,
    `class`, `target` or `y`, or else in the first or in the last one: in the one with texts, or with whole numbers that
    occur more than once.

    Args:
        path: the file.
        label: column that the user named: `"first"`, `"last"` or a name.
        named: whether the user says that the rows are series, whatever the columns are called.

    Returns:
        `"first"`, `"last"` or a name in the header; empty if the file is no table of series.

    Raises:
        InputError: The columns may be the steps of series or something else, or both ends may be the labels.

    """
    try:
        rows = cells.rows_of(path, cells.separator_of(path))
    except InputError:
        if named:
            raise
        return ""  # reported when the file is read
    if len(rows) < 2 or min(len(row) for _, row in rows) < 2:
        return _none(path, "needs a label and values in each of at least two rows") if named else ""
    first = [cell.strip() for cell in rows[0][1]]
    known = label or next((name for name in first if name.lower() in NAMES), "")
    fits = [one for one in ((known,) if known else ENDS) if _fits(rows, one, path)]
    if not fits:
        return _none(path, "has texts in other columns than that of the labels") if named else ""
    if max(len(row) for _, row in rows) <= STEPS and not named:
        return ""
    if len(fits) > 1:
        sure = [one for one in fits if _labels(rows, one)]
        if len(sure) != 1:
            both = "both its first and its last column" if sure else "neither its first nor its last column"
            raise InputError(
                f"{visible(path)}: {both} may be the labels of its series; say which with --label-column first or last"
            )
        fits = sure
    at = place_of(fits[0], first, path)
    if not named and has_header(rows, fits[0], at) and not _counts(_without(first, at)):
        shown = ", ".join(map(visible, _without(first, at)[:3]))
        raise InputError(
            f"{visible(path)}: its columns {shown[:80]}, ... may be the steps of series or numbers of different kinds; "
            "for series, give --table series"
        )
    return fits[0]


def _none(path: pathlib.Path, why: str) -> str:
    raise InputError(f"{visible(path)}: {why}; it is no table of series: leave --table series out")


def _without(row: Sequence[str], at: int) -> list[str]:
    """Return the cells of a row but one."""
    at %= len(row)
    return [*row[:at], *row[at + 1 :]]


def _fits(rows: Lines, label: str, path: pathlib.Path) -> bool:
    """Whether all cells but the labels are numbers or missing."""
    at = place_of(label, rows[0][1], path)
    body = rows[has_header(rows, label, at) :]
    return bool(body) and all(cells.number(cell) is not None for _, row in body for cell in _without(row, at))


def _labels(rows: Lines, label: str) -> bool:
    """Whether the cells of a column at an end are texts, or whole numbers of which some occur more than once."""
    at = ENDS[label]
    found = [row[at].strip() for _, row in rows[has_header(rows, label, at) :]]
    values = [cells.number(cell) for cell in found]
    if all(value is None for value in values):
        return True
    whole = all(value is not None and math.isfinite(value) and value == round(value) for value in values)
    return whole and len(set(values)) <= max(len(values) // 2, 2)


def _counts(names: Sequence[str]) -> bool:
    """Whether names of columns count up in steps of one, such as `t0,t1,t2` or `1,2,3`."""
    parts = [re.fullmatch(r"(\D*)(\d{1,9})", name) for name in names]
    if len({part[1] if part else None for part in parts}) > 1 or not all(parts):
        return False
    numbers = [int(part[2]) for part in parts if part]
    return all(b == a + 1 for a, b in zip(numbers, numbers[1:], strict=False))
