"""The cells of CSV files and other tables of text: reading them, missing ones, numbers, and labels of classes."""

import csv
import io
import itertools
import math
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from jaxcnn.core.files import opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

BYTES = 2**30  # most bytes of a file
CELL = 2**24  # most characters of a cell
MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}  # in lower case
SEPARATORS = (",", ";", "\t")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
INTEGER = re.compile(r"-?[0-9]{1,18}")
LARGEST = float(np.finfo(np.float32).max)


def text_of(path: pathlib.Path) -> str:
    """Return the text of a file, UTF-8 with or without a mark at its start.

    Raises:
        InputError: the file cannot be read, is too large or not UTF-8.

    """
    try:
        with opened(path) as file:
            found = file.read(BYTES + 1)
        if len(found) > BYTES:
            raise InputError(f"{visible(path)}: more than {BYTES:,} bytes; divide it")
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object[: error.start].count(b"\n")
        raise InputError(f"{visible(path)}: is not UTF-8 (line {line}); save it as CSV, UTF-8") from error
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{visible(path)}: cannot be read ({error.strerror}); give another file") from error


def rows_of(path: pathlib.Path, separator: str = ",") -> list[tuple[int, list[str]]]:
    """Read the rows of a CSV file that are not empty, each with the number of its last line.

    Args:
        path: the file.
        separator: the character between cells.

    Raises:
        InputError: as `text_of`; or the file is not a CSV file, or a cell has more than `CELL` characters.

    """
    found = []
    rows = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=separator, strict=True)
    usual = csv.field_size_limit(CELL)
    try:
        for row in rows:
            if row:
                found.append((rows.line_num, row))
    except csv.Error as error:
        if "field larger" in str(error):
            line = f"line {rows.line_num}: a cell of more than {CELL:,} characters"
            raise InputError(
                f"{visible(path)}: {line}; a quote may be open above; close it, or shorten the text"
            ) from None
        raise InputError(f"{visible(path)}: is not a CSV file ({error}); save it as CSV, UTF-8") from error
    finally:
        csv.field_size_limit(usual)
    return found


def separator_of(path: pathlib.Path, separator: str | None = None) -> str:
    """Return the character between cells: the given one, or the one that the first line shows.

    Args:
        path: the file; `.tsv` means tabs.
        separator: `","`, `";"` or a tab; None to find it.

    Raises:
        InputError: another character is given, or the file cannot be read.

    """
    if separator is not None:
        if separator not in SEPARATORS:
            raise InputError(f"separator={separator!r}: must be ',', ';' or a tab")
        return separator
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for line in text_of(path).splitlines() if line.strip()), "")
    return next((mark for mark in (";", "\t") if mark in first), ",")


def is_missing(text: str) -> bool:
    """Whether a cell says that its value is missing."""
    return text.strip().lower() in MISSING


def number(text: str) -> float | None:
    """Return the number of a cell, NaN where it is missing; None where it is no finite number of float32."""
    if is_missing(text):
        return math.nan
    try:
        value = to_float(text)
    except ValueError:
        return None
    return value if abs(value) <= LARGEST else None


def to_float(text: str) -> float:
    """Return the number of a text; `ValueError` for none, and for `1_0`, which Python would read as 10."""
    if "_" in text:
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def numbers(cells: Sequence[str], path: pathlib.Path, line: int, names: Sequence[str] | None = None) -> list[float]:
    """Return the numbers of cells.

    Args:
        cells: the cells.
        path: the file, for messages.
        line: their line.
        names: names of their columns.

    Raises:
        InputError: a cell is no finite number.

    """
    found = [number(cell) for cell in cells]
    for k, (cell, value) in enumerate(zip(cells, found, strict=True)):
        if value is None:
            where = visible(names[k])[:80] if names is not None else f"value {k + 1}"
            comma = DECIMAL_COMMA.fullmatch(cell.strip())
            fix = f"write {cell.strip().replace(',', '.')}" if comma else "must be a finite number, or empty"
            raise InputError(f"{visible(path)}: line {line}: {where} is {visible(cell)[:80]!r}: {fix}")
    return found  # pyright: ignore[reportReturnType] (None is refused above)


def is_number(label: str) -> bool:
    """Whether a class is a number, by which classes are then sorted."""
    return bool(INTEGER.fullmatch(label))


def classes_of(labels: Sequence[str], lines: Sequence[int], path: pathlib.Path) -> tuple[str, ...]:
    """Return the classes that labels name: in order of their numbers, or of the alphabet.

    Raises:
        InputError: a label is missing, labels mix text and numbers, there is only one, or each row has its own.

    """
    numeric = [is_number(text) for text in labels]
    for text, line in zip(labels, lines, strict=True):
        if not text:
            raise InputError(f"{visible(path)}: line {line}: no label; add it, or remove the line")
    if any(numeric) and not all(numeric):
        kinds = [labels[numeric.index(kind)] for kind in (False, True)]
        at = [lines[numeric.index(kind)] for kind in (False, True)]
        raise InputError(
            f"{visible(path)}: column 'label' mixes text ({visible(kinds[0])!r}, line {at[0]}) and numbers "
            f"({visible(kinds[1])}, line {at[1]}); use one kind, or name a column of numbers to predict 'target'"
        )
    names = sorted(set(labels), key=int) if all(numeric) else sorted(set(labels))
    if all(numeric) and (two := next((p for p in itertools.pairwise(names) if int(p[0]) == int(p[1])), None)):
        first, second = sorted(two, key=len)
        line = f"the labels {first} and {second} are the same number"
        raise InputError(f"{visible(path)}: {line}; write them the same way")
    if len(names) < 2:
        raise InputError(f"{visible(path)}: only the label {visible(names[0])!r}; needs at least two classes")
    if not all(numeric) and len(names) == len(labels) > 2:
        fix = "for numbers to predict, name the column 'target'"
        raise InputError(f"{visible(path)}: every row has a label of its own, such as {visible(names[0])!r}; {fix}")
    return tuple(names)
