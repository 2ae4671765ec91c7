"""Time series with a class each, from text files: a row per series in CSV and TSV files (UCR archive), or `.ts` files.

The archives are those of Dau et al. (2019, arXiv:1810.07758) and Bagnall et al. (2018, arXiv:1811.00075).
"""

import dataclasses
import logging
import pathlib
import re
from typing import Literal, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import cells
from jaxcnn.data.core import Resident, Splits
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.series_table import has_header, place_of
from jaxcnn.data.splitting import cut

log = logging.getLogger("jaxcnn")
VALUES = 2**28  # most values of all series, padding included
SUFFIXES = (".ts", ".tsv", ".csv", ".txt")
Missing = Literal["interpolate", "refuse"]


class Rows(NamedTuple):
    """The series of one file.

    Attributes:
        series: arrays float64 `[T, C]`, NaN where a value is missing.
        labels: their labels, as text.
        lines: their lines.

    """

    series: list[np.ndarray]
    labels: list[str]
    lines: list[int]


def series(
    path: str | pathlib.Path,
    *,
    label: str = "first",
    missing: Missing = "interpolate",
    separator: str | None = None,
    standardise: bool = False,
    seed: int = 0,
    validation_fraction: float = 0.2,
    test_fraction: float = 0.2,
) -> Splits:
    """Load time series with a class each.

    A `.csv`, `.tsv` or `.txt` file has a row for each series, with its label in one column and its values in the
    others; a header is optional. A `.ts` file has channels between colons, and the label at the end. Shorter series are
    padded with 0; missing values at the end of a row are padding as well, as in the UCR archive.

    Args:
        path: a file, or a folder with one whose name ends in `_TRAIN`. If the name of the file has `_TRAIN`, the file
            beside it with `_TEST` is the test part.
        label: column of the labels: `"first"`, `"last"`, or its name in the header. `.ts` files have it at the end.
        missing: `"interpolate"` fills missing values (empty, `?`, `NaN`) between others linearly, repeats the nearest
            before the first, and logs how many; `"refuse"` refuses them.
        separator: `","`, `";"` or a tab; by default found from the first line.
        standardise: subtract the mean of each series and divide by its standard deviation, channel by channel; a
            constant series becomes 0.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on.
        test_fraction: share of all rows to test on, if there is no file for it.

    Returns:
        The parts, with `"series"` float32 `[N, T, C]`, `"length"` int32 `[N]` and `"label"` int32 `[N]`.

    Raises:
        InputError: a file cannot be read or has a wrong value; or a class has no training row.

    """
    if missing not in ("interpolate", "refuse"):
        raise InputError(f"missing={missing!r}: must be 'interpolate' or 'refuse'")
    files = parts_of(pathlib.Path(path).expanduser())
    found = {part: _read(file, label, separator) for part, file in files.items()}
    classes = cells.classes_of(found["train"].labels, found["train"].lines, files["train"])
    longest = max(len(x) for rows in found.values() for x in rows.series)
    channels = {x.shape[1] for rows in found.values() for x in rows.series}
    if len(channels) > 1:
        raise InputError(f"{visible(path)}: series of {min(channels)} and of {max(channels)} channels; must be equal")
    held = {}
    for part, rows in found.items():
        if len(rows.series) * longest * max(channels) > VALUES:
            raise InputError(
                f"{visible(files[part])}: more than {VALUES:,} values with padding; cut the longest series"
            )
        held[part] = _resident(rows, longest, classes, files[part], missing, standardise)
    every = np.concatenate(found["train"].series)
    if np.nanmin(every) == np.nanmax(every):
        raise InputError(f"{visible(files['train'])}: all values are {np.nanmin(every):g}; nothing tells classes apart")
    train, kind = held["train"], held["train"].label
    if "test" not in held:
        train, held["test"], kind = cut(train, kind, test_fraction, seed, "test_fraction")
    train, valid, _ = cut(train, kind, validation_fraction, seed)
    splits = Splits(train, valid, held["test"])
    tell_copies(splits, visible(path), "series")
    return splits


def unlabelled(
    path: str | pathlib.Path, separator: str | None = None, *, label: str = "", standardise: bool = False
) -> tuple[dict[str, np.ndarray], list[int]]:
    """Read series to predict, with or without a column of labels, which are not looked at.

    Args:
        path: a `.csv`, `.tsv` or `.txt` file, with or without a header, or a `.ts` file.
        separator: as in `series`.
        label: column of labels, as in `series`; empty if rows have values only. `.ts` files have labels at the end.
        standardise: as in `series`.

    Returns:
        `"series"` float32 `[N, T, C]` and `"length"` int32 `[N]`; missing values are interpolated. And their lines.

    Raises:
        InputError: the file cannot be read or has a wrong value.

    """
    path = pathlib.Path(path).expanduser()
    if path.suffix.lower() == ".ts":
        rows = _read_ts(path)
    elif label:
        rows = _read_csv(path, label, separator)
    else:
        found = cells.rows_of(path, cells.separator_of(path, separator))
        if found and has_header(found, "first", None):
            log.info("%s: the first line has names of columns", visible(path))
            found = found[1:]
        lines = [line for line, _ in found]
        rows = Rows([np.array(cells.numbers(row, path, line))[:, None] for line, row in found], [], lines)
    if not rows.series or len({x.shape[1] for x in rows.series}) > 1:
        raise InputError(f"{visible(path)}: no series, or series with different channels; give another file")
    longest = max(map(len, rows.series))
    if len(rows.series) * longest * rows.series[0].shape[1] > VALUES:
        raise InputError(f"{visible(path)}: more than {VALUES:,} values with padding; cut the longest series")
    rows = rows._replace(labels=["0"] * len(rows.series))
    arrays = _resident(rows, longest, ("0",), path, "interpolate", standardise).arrays
    return {name: arrays[name] for name in ("series", "length")}, rows.lines


def fitted(data: Resident, steps: int, channels: int, name: str) -> Resident:
    """Return series with padding up to a number of steps.

    Args:
        data: the series.
        steps: steps of a row.
        channels: channels of a series.
        name: name of the data, for messages.

    Raises:
        InputError: a series is longer, or has other channels.

    """
    x, longest = data.arrays["series"], int(data.arrays["length"].max())
    if x.shape[2] != channels:
        raise InputError(f"{name}: series of {x.shape[2]} channels, and the run's have {channels}; give such series")
    if longest > steps:
        raise InputError(f"{name}: series of up to {longest} values, and the run's have {steps}; shorten them")
    rows = np.zeros((len(x), steps, channels), np.float32)
    rows[:, : min(x.shape[1], steps)] = x[:, :steps]
    return dataclasses.replace(data, arrays={**data.arrays, "series": rows})


def parts_of(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the file to train on, and perhaps the one to test on; a folder has one that ends in `_TRAIN`.

    Raises:
        InputError: there is no such file, or a folder has several; `.ts` comes before `.tsv`, `.csv` and `.txt`.

    """
    if path.is_dir():
        every = [[p for p in sorted(path.glob(f"*_TRAIN{end}")) if p.is_file()] for end in SUFFIXES]
        named = next((some for some in every if some), [])
        if len(named) != 1:
            raise InputError(f"{visible(path)}: {len(named)} files that end in _TRAIN.ts, .tsv, .csv or .txt; give one")
        path = named[0]
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{visible(path)}: must end in {', '.join(SUFFIXES)}")
    test = path.with_name(path.name.replace("_TRAIN", "_TEST"))
    others = [test.with_suffix(end) for end in SUFFIXES if test != path and test.with_suffix(end).is_file()]
    if others and not test.is_file():
        line = f"the test file {visible(others[0].name)} has another format; use one format for both"
        raise InputError(f"{visible(path)}: {line}")
    return {"train": path} | ({"test": test} if test != path and test.is_file() else {})


def _read(path: pathlib.Path, label: str, separator: str | None) -> Rows:
    rows = _read_ts(path) if path.suffix.lower() == ".ts" else _read_csv(path, label, separator)
    if not rows.series:
        raise InputError(f"{visible(path)}: no series; add some")
    return rows._replace(labels=[_label(text, path, line) for text, line in zip(rows.labels, rows.lines, strict=True)])


def _label(text: str, path: pathlib.Path, line: int) -> str:
    """Return a label without quotes and spaces; `1.0e+00` of older files is 1."""
    text = text.strip().strip("'\"")
    if re.fullmatch(r"[+-]?0\d+", text):  # a name, such as 007, which is not 7
        return text
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):  # a float would make neighbours of large ones the same
        return str(int(text))
    value = None if cells.is_missing(text) else cells.number(text)
    if value is None:
        return "" if cells.is_missing(text) else text
    if value != round(value):
        raise InputError(
            f"{visible(path)}: line {line}: label {visible(text)[:80]}: must be a class; numbers are whole"
        )
    return str(round(value))


def _read_csv(path: pathlib.Path, label: str, separator: str | None) -> Rows:
    rows = cells.rows_of(path, cells.separator_of(path, separator))
    if not rows:
        raise InputError(f"{visible(path)}: no rows; add some")
    first = rows[0][1]
    at = place_of(label, first, path)
    headed = has_header(rows, label, at)
    found = Rows([], [], [])
    for line, row in rows[headed:]:
        if len(row) < 2 or headed and len(row) > len(first) or at > 0 and len(row) <= at:
            raise InputError(f"{visible(path)}: line {line}: {len(row)} cells; must be a label and at least one value")
        where = at % len(row)
        values = np.array(cells.numbers(row[:where] + row[where + 1 :], path, line))[:, None]
        found.series.append(values)
        found.labels.append(row[where])
        found.lines.append(line)
    _refuse_empty_columns(found, path)
    return found


def _refuse_empty_columns(rows: Rows, path: pathlib.Path) -> None:
    """Refuse columns without any value before others that have some: they are no missing values."""
    longest = max((len(x) for x in rows.series), default=0)
    if len(rows.series) < 2:
        return
    seen = np.zeros(longest, bool)
    for x in rows.series:
        seen[: len(x)] |= ~np.isnan(x[:, 0])
    if seen.any() and not seen[: int(np.flatnonzero(seen)[-1])].all():
        place = int(np.flatnonzero(~seen)[0]) + 1
        raise InputError(f"{visible(path)}: value {place} is missing in every row; remove the empty column")


def _read_ts(path: pathlib.Path) -> Rows:
    found, begun, labelled = Rows([], [], []), False, False
    for line, text in enumerate(cells.text_of(path).splitlines(), 1):
        text = text.strip()
        if not text or text.startswith(("#", "%")):
            continue
        if text.startswith("@"):
            words = text.lower().split()
            begun = begun or words[0] == "@data"
            labelled = labelled or words[:2] == ["@classlabel", "true"]
            if words[:2] == ["@timestamps", "true"]:
                raise InputError(
                    f"{visible(path)}: line {line}: values with time stamps are not read; remove the stamps"
                )
            continue
        if not begun or not labelled:
            lacks = "@data" if not begun else "@classLabel true"
            raise InputError(f"{visible(path)}: line {line}: a series, but no line {lacks} before it; add it")
        *channels, name = text.split(":")
        values = [cells.numbers(channel.split(","), path, line) for channel in channels]
        if not values or len({len(x) for x in values}) > 1:
            raise InputError(
                f"{visible(path)}: line {line}: must be channels of one length and a label, with ':' between them"
            )
        found.series.append(np.array(values).T)
        found.labels.append(name)
        found.lines.append(line)
    return found


def _resident(
    rows: Rows, longest: int, classes: tuple[str, ...], path: pathlib.Path, missing: Missing, standardise: bool
) -> Resident:
    """Fill, standardise and pad the series of one part."""
    number = {name: k for k, name in enumerate(classes)}
    out = np.zeros((len(rows.series), longest, rows.series[0].shape[1]), np.float32)
    length, filled, changed = np.zeros(len(out), np.int32), 0, 0
    for i, (x, name, line) in enumerate(zip(rows.series, rows.labels, rows.lines, strict=True)):
        if name not in number:
            raise InputError(
                f"{visible(path)}: line {line}: class {visible(name)[:80]!r} has no training row; add some"
            )
        known = np.flatnonzero(~np.isnan(x).all(1))
        if not len(known) or np.isnan(x).all(0).any():
            raise InputError(f"{visible(path)}: line {line}: no value in a channel; remove the line")
        x = x[: known[-1] + 1]
        gaps = int(np.isnan(x).sum())
        if gaps and missing == "refuse":
            raise InputError(f"{visible(path)}: line {line}: {gaps} missing values; give missing='interpolate'")
        filled, changed = filled + gaps, changed + bool(gaps)
        x = np.stack([_interpolated(column) for column in x.T], -1)
        if standardise:
            deviation = x.std(0)
            x = (x - x.mean(0)) / np.where(deviation > 1e-12 * np.abs(x).max(0), deviation, np.inf)
        out[i, : len(x)], length[i] = x, len(x)
    if filled:
        log.warning("%s: %d missing values in %d series filled by linear interpolation", visible(path), filled, changed)
    label = np.array([number[name] for name in rows.labels], np.int32)
    names = tuple(f"{re.sub('_(TRAIN|TEST)$', '', path.stem)}:{line}" for line in rows.lines)
    return Resident({"series": out, "length": length, "label": label}, classes, names=names)


def _interpolated(x: np.ndarray) -> np.ndarray:
    known = ~np.isnan(x)
    return x if known.all() else np.interp(np.arange(len(x)), np.flatnonzero(known), x[known])
