"""Windows of a time series for forecasting, from a table with a row for each time; its parts follow each other."""

import logging
import pathlib
from typing import NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import cells
from jaxcnn.data.core import Resident, Splits
from jaxcnn.data.splitting import check_fraction
from jaxcnn.data.time_stamps import check_times
from jaxcnn.metrics import naive_error

log = logging.getLogger("jaxcnn")
VALUES = 2**28  # most values of all windows of a part


class TimeTable(NamedTuple):
    """A table with a row for each time.

    Attributes:
        times: the time stamps, as text.
        columns: names of the columns of `values`, the target first.
        values: float64 `[T, C]`, NaN where they are missing.
        step: the time between rows, as text.

    """

    times: list[str]
    columns: list[str]
    values: np.ndarray
    step: str


def forecast(
    path: str | pathlib.Path,
    *,
    context: int,
    horizon: int,
    period: int = 1,
    time: str | None = None,
    target: str | None = None,
    stride: int = 1,
    separator: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Splits:
    """Cut windows from a table with a time column and columns of values.

    The rows are divided in the order of time: first those to train on, then those to validate on, then those to test
    on. A window for training lies within the first part. A window of another part forecasts values of this part only,
    and its context may reach back, as it does in use. Training windows are drawn in random order; validation and test
    windows follow each other.

    Args:
        path: a CSV file with a header.
        context: steps that a forecast sees.
        horizon: steps to forecast.
        period: steps of a season, for the unit of the MASE.
        time: the time column; by default the first one.
        target: the column to forecast; by default the first other one.
        stride: distance of windows.
        separator: `","`, `";"` or a tab; by default found from the first line.
        validation_fraction: share of the rows that follow those to train on.
        test_fraction: share of the rows at the end.

    Returns:
        The parts, with `"series"` float32 `[N, context, C]`, the target first, and `"target"` float32 `[N, horizon]`,
        NaN where a value is missing, and `"naive_error"` float32 `[N]`, that of the training rows. Windows without any
        observed value of the target before or after the origin are left out. `names` are the times of the first step
        that is forecast.

    Raises:
        InputError: the file or a value cannot be read, times are not evenly spaced, or a part has no window.

    """
    path = pathlib.Path(path).expanduser()
    if min(context, horizon, period, stride) < 1:
        raise InputError(f"context={context}, horizon={horizon}, period={period}, stride={stride}: must be at least 1")
    found = read_times(path, time=time, target=target, separator=separator)
    first, second = cuts(len(found.values), validation_fraction, test_fraction)
    try:
        unit = naive_error(found.values[:first, 0], period)
    except InputError as error:
        raise InputError(f"{visible(path)}: {found.columns[0]}: {error}") from error
    held = []
    for part, start, end in (("train", context, first), ("valid", first, second), ("test", second, len(found.values))):
        held.append(_windows(found, part, start, end, context, horizon, stride, unit, path))
    return Splits(*held)


def cuts(rows: int, validation_fraction: float, test_fraction: float) -> tuple[int, int]:
    """Return the first row to validate on and the first row to test on.

    Raises:
        InputError: a share is out of range or leaves a part without rows.

    """
    check_fraction("test_fraction", test_fraction, rows)
    check_fraction("validation_fraction", validation_fraction, rows)
    second = rows - round(test_fraction * rows)
    first = second - round(validation_fraction * rows)
    if first < 1:
        raise InputError(
            f"validation_fraction={validation_fraction}, test_fraction={test_fraction}: leave no row to train on; "
            "give less"
        )
    return first, second


def read_times(
    path: str | pathlib.Path, *, time: str | None = None, target: str | None = None, separator: str | None = None
) -> TimeTable:
    """Read a table with a time column; see `forecast`.

    Raises:
        InputError: the file or a value cannot be read, a column is missing, empty or constant, or times are not evenly
            spaced.

    """
    path = pathlib.Path(path).expanduser()
    rows = cells.rows_of(path, cells.separator_of(path, separator))
    if len(rows) < 2:
        raise InputError(f"{visible(path)}: {len(rows)} rows; needs a header and a row for each time")
    header, body = [name.strip() for name in rows[0][1]], rows[1:]
    has = ", ".join(visible(name)[:40] for name in header[:10])
    if len(set(header)) < len(header) or "" in header:
        raise InputError(
            f"{visible(path)}: two columns with the same name in its header, or one without; name them ({has})"
        )
    if cells.number(header[-1]) is not None and not cells.is_missing(header[-1]):
        raise InputError(
            f"{visible(path)}: its first line, {has}, has numbers; add a header with the names of the columns"
        )
    for line, row in body:
        if len(row) != len(header):
            raise InputError(
                f"{visible(path)}: line {line}: {len(row)} cells for {len(header)} columns; correct the line"
            )
    time = header[0] if time is None else time
    columns = [name for name in header if name != time]
    target = columns[0] if target is None and columns else target
    for option, name in (("time", time), ("target", target)):
        if name not in (header if option == "time" else columns):
            raise InputError(f"{option}={visible(name)!r}: no such column in {visible(path)}; it has {has}")
    columns = [str(target), *(name for name in columns if name != target)]
    lines = [line for line, _ in body]
    times = [row[header.index(time)].strip() for _, row in body]
    places = [header.index(name) for name in columns]
    step = check_times(times, lines, path)
    values = np.array([cells.numbers([row[k] for k in places], path, line, columns) for line, row in body])
    _check_columns(values, columns, path)
    return TimeTable(times, columns, values, step)


def _check_columns(values: np.ndarray, columns: list[str], path: pathlib.Path) -> None:
    """Refuse columns without any value, and a constant target; tell which others are constant."""
    for k, name in enumerate(columns):
        known = values[~np.isnan(values[:, k]), k]
        if not len(known):
            raise InputError(f"{visible(path)}: column {visible(name)[:80]} has no value; remove it")
        if np.ptp(known) == 0 and k == 0:
            raise InputError(
                f"{visible(path)}: column {visible(name)[:80]} is {known[0]:g} everywhere; nothing to forecast"
            )
        if np.ptp(known) == 0:
            log.warning("%s: column %s is %g everywhere; it tells nothing", visible(path), visible(name)[:80], known[0])
    if missing := int(np.isnan(values).sum()):
        log.warning("%s: %d of %d values are missing; they are masked", visible(path), missing, values.size)


def _windows(
    found: TimeTable, part: str, start: int, end: int, context: int, horizon: int, stride: int, unit: float,
    path: pathlib.Path,
) -> Resident:  # fmt: skip
    """Cut windows whose first forecast step is from `start` on, and whose last one is before `end`."""
    origins = np.arange(max(start, context), end - horizon + 1, stride)
    if len(origins) * (context * len(found.columns) + horizon) > VALUES:
        raise InputError(f"{visible(path)}: {len(origins):,} windows of the {part} part; give a larger stride=")
    after = np.stack([found.values[o : o + horizon, 0] for o in origins]) if len(origins) else np.empty((0, horizon))
    before = [found.values[o - context : o] for o in origins]
    good = [i for i, x in enumerate(before) if not np.isnan(x[:, 0]).all() and not np.isnan(after[i]).all()]
    if not good:
        rows = end - start if part != "train" else end
        raise InputError(
            f"{visible(path)}: no window in the {rows} rows of the {part} part; give a shorter context= or horizon=, "
            "or more rows"
        )
    if len(good) < len(origins):
        log.warning("%s: %d windows without values left out", visible(path), len(origins) - len(good))
    arrays = {
        "series": np.stack([before[i] for i in good]).astype(np.float32),
        "target": after[good].astype(np.float32),
        "naive_error": np.full(len(good), unit, np.float32),
    }
    return Resident(arrays, names=tuple(found.times[origins[i]] for i in good))
