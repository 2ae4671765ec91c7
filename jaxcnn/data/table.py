"""A CSV file that lists images with their labels: a class, several columns of 0 and 1, or a number to predict."""

import logging
import os
import pathlib
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.cells import classes_of, rows_of, to_float
from jaxcnn.data.core import OnBad, Resident, Splits, sides
from jaxcnn.data.image import Resize
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import Form, Reader
from jaxcnn.data.splitting import cut

log = logging.getLogger("jaxcnn")
FILE, LABEL, TARGET, SPLIT = "file", "label", "target", "split"
PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
Kind = Literal["classification", "multilabel", "regression"]


class Table(NamedTuple):
    """The rows of a CSV file.

    Attributes:
        header: names of the columns.
        rows: values of each row, as text.
        lines: line number of each row, for messages.

    """

    header: list[str]
    rows: list[list[str]]
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """Return the values of a column, stripped."""
        at = self.header.index(name)
        return [row[at].strip() for row in self.rows]


def table(
    path: str | pathlib.Path,
    *,
    task: Kind | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
    resize: Resize = "squash",
    crop_ratio: float = 1.0,
) -> Splits:
    """Load images that a CSV file lists.

    The file has a header row and a column `file` with paths relative to the folder of the CSV file. A column `label`
    has classes, by name or by number from 0; a column `target` has numbers to predict. Without either, every other
    column is a label of 0 or 1, and a row may have several. A column `split` (train, valid or test) assigns rows to
    parts.

    Args:
        path: path of the CSV file, UTF-8.
        task: the task to read, if the file has columns for several; by default it follows from the columns.
        size: height and width, or one number for both, to which every image is resized; required if sizes differ.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if no column assigns them.
        test_fraction: share of all rows to test on, if no column assigns them.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each unreadable image, which is then left out; None to raise.
        resize: how images are resized, see `jaxcnn.data.image.decode`.
        crop_ratio: see there.

    Returns:
        The parts, with `"label"` `[N]` or `[N, K]`, or with `"target"` `[N]`; `names` has the files.

    Raises:
        InputError: The file cannot be read, a column is missing or has a wrong value, or an image does not exist.

    """
    path, size = pathlib.Path(path), sides(size)
    found = read(path)
    kind = task or kind_of(found, path)
    values, classes = answers(found, kind, path)
    files = [path.parent / name for name in found.column(FILE)]
    for file, line in zip(files, found.lines, strict=True):
        if not os.path.isfile(file):  # pathlib would raise for a name that is too long
            line = f"line {line}: {visible(file)[:200]}: no such file"
            raise InputError(f"{visible(path)}: {line}; paths are relative to the folder of the CSV file")
    if kind != "regression":  # several numbers for a file may be meant
        _check_files(files, values, found.lines, path)
    rows = {"all": np.arange(len(files))} if SPLIT not in found.header else assigned(found, path)
    reader = Reader(files, Form(size, resize, crop_ratio), on_bad)
    key, held, kept = TARGET if kind == "regression" else LABEL, {}, {}
    for part, index in rows.items():
        index = np.array([i for i in index if files[i] not in reader.bad], np.int64)
        chosen = [files[i] for i in index]
        held[part] = reader.data(path, chosen, values[index], classes, resident_bytes, path.parent, key)
        own = np.asarray(held[part].arrays[key]) if isinstance(held[part], Resident) else values[index]
        kept[part] = strata(kind, own)
    first = "train" if "train" in held else "all"
    if kind == "classification":
        lost = sorted({int(k) for own in kept.values() for k in own} - set(kept[first].tolist()))
        if lost:
            line = f"the class {visible(classes[lost[0]])[:80]!r} has no training row"
            raise InputError(f"{visible(path)}: {line}; add some, or leave the class out")
    train, alike = held[first], kept[first]
    if "test" not in held:
        train, held["test"], alike = cut(train, alike, test_fraction, seed, "test_fraction")
    if "valid" not in held:
        train, held["valid"], _ = cut(train, alike, validation_fraction, seed)
    splits = Splits(train, held["valid"], held["test"])
    tell_copies(splits, visible(path), top=path.parent)
    return splits


def _check_files(files: list[pathlib.Path], values: np.ndarray, lines: list[int], path: pathlib.Path) -> None:
    """Refuse a file with two different labels."""
    first: dict[Any, int] = {}
    for i, file in enumerate(files):
        about = os.stat(file)
        k = first.setdefault((about.st_dev, about.st_ino), i)
        if np.any(values[i] != values[k]):
            line = f"line {lines[i]}: {visible(file)[:200]} has another label in line {lines[k]}"
            raise InputError(f"{visible(path)}: {line}; for several labels per image, use a 0/1 column per label")


def read(path: pathlib.Path, need: str | None = FILE) -> Table:
    """Read a CSV file.

    Args:
        path: path of the file.
        need: a column that it must have; None for any columns.

    Raises:
        InputError: The file is not a CSV file, or a row and the header have different numbers of columns.

    """
    (_, names), *rest = rows_of(path) or [(0, [])]
    header, found, lines = [name.strip() for name in names], [], []
    for line, row in rest:
        if len(row) != len(header):
            raise InputError(
                f"{visible(path)}: line {line}: {len(row)} values for {len(header)} columns; correct the line"
            )
        found.append(row)
        lines.append(line)
    if need and need not in header:
        has = ", ".join(map(visible, header[:10])) or "none"
        raise InputError(
            f"{visible(path)}: no column {need!r} in its header (columns: {has}); name the column of image paths so"
        )
    if len(set(header)) < len(header):
        raise InputError(f"{visible(path)}: two columns with the same name in its header; rename one of them")
    if not found:
        raise InputError(f"{visible(path)}: no rows below its header; add some")
    return Table(header, found, lines)


def kind_of(found: Table, path: pathlib.Path, row: str = FILE) -> Kind:
    """Return the task that fits the columns of a CSV file.

    Args:
        found: the rows of the file.
        path: path of the file, for messages.
        row: name of the column of files or texts, for messages.

    Raises:
        InputError: No task fits, or two do.

    """
    others = [name for name in found.header if name not in (FILE, SPLIT)]
    if LABEL in others and TARGET in others:
        both = "columns 'label' (classification) and 'target' (regression) both fit"
        raise InputError(f"{visible(path)}: {both}; say which with --task classification or --task regression")
    if LABEL in others or TARGET in others:
        return "classification" if LABEL in others else "regression"
    if len(others) > 1 and all(set(found.column(name)) <= {"0", "1"} for name in others):
        return "multilabel"
    has = ", ".join(map(visible, others[:10])) or "none"
    raise InputError(
        f"{visible(path)}: besides {visible(row)!r} it has the columns {has}; needs 'label' (classes), 'target' "
        "(numbers), or several columns of 0 and 1"
    )


def answers(found: Table, kind: Kind, path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels or targets of the rows, and the class names."""
    others = [name for name in found.header if name not in (FILE, SPLIT)]
    wanted = {"classification": LABEL, "regression": TARGET}.get(kind)
    if wanted and wanted not in others:
        raise InputError(f"{visible(path)}: no column {wanted!r}, which --task {kind} needs; add it")
    if kind == "classification":
        return _classes(found, path)
    if kind == "multilabel":
        names = [name for name in others if name not in (LABEL, TARGET)]
        if not names:
            raise InputError(f"{visible(path)}: no 0/1 columns, which --task multilabel needs; add one per label")
        return np.stack([_numbers(found, name, path, {0.0, 1.0}) for name in names], -1), tuple(names)
    return _numbers(found, TARGET, path), ()


def _classes(found: Table, path: pathlib.Path) -> tuple[np.ndarray, tuple[str, ...]]:
    texts = found.column(LABEL)
    names = classes_of(texts, found.lines, path)
    places = {name: k for k, name in enumerate(names)}
    return np.array([places[text] for text in texts], np.int32), names


def _numbers(found: Table, name: str, path: pathlib.Path, allowed: set[float] | None = None) -> np.ndarray:
    out = np.empty(len(found.rows), np.float32)
    for i, (text, line) in enumerate(zip(found.column(name), found.lines, strict=True)):
        try:
            out[i] = to_float(text)
            good = np.isfinite(out[i]) and (allowed is None or float(out[i]) in allowed)
        except ValueError:
            good = False
        if not good:
            must = "must be a finite number" if allowed is None else "must be 0 or 1"
            raise InputError(f"{visible(path)}: line {line}: {visible(name)} is {visible(text)!r}: {must}")
    return out


def assigned(found: Table, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the row numbers of each part, from the column `split`."""
    parts: dict[str, list[int]] = {"train": []}
    for i, (text, line) in enumerate(zip(found.column(SPLIT), found.lines, strict=True)):
        if text.lower() not in PARTS:
            raise InputError(f"{visible(path)}: line {line}: split is {visible(text)!r}: must be train, valid or test")
        parts.setdefault(PARTS[text.lower()], []).append(i)
    if not parts["train"]:
        raise InputError(f"{visible(path)}: no row whose split is train; needs some")
    return {part: np.array(index) for part, index in parts.items()}


def strata(kind: Kind, values: np.ndarray) -> np.ndarray:
    """Return a class for each row, for stratified splits."""
    if kind == "regression":
        return np.zeros(len(values), np.int64)
    return np.unique(values, axis=0, return_inverse=True)[1].reshape(-1) if values.ndim > 1 else values
