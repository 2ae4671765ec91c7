"""Time stamps of a table as numbers, which must increase evenly."""

import calendar
import datetime
import pathlib
import re
from collections.abc import Sequence

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

DAY = re.compile(r"\d{8}")
MONTH = re.compile(r"(\d{4})-(\d{2})")
LOCAL = re.compile(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*")  # of which the order of day and month is unknown
TOLERANCE = 1e-6  # of a step, for numbers that were rounded


def check_times(texts: Sequence[str], lines: Sequence[int], path: pathlib.Path) -> str:
    """Refuse time stamps that do not increase in even steps, or in steps of whole months.

    They are ISO 8601 dates and times, months such as `2001-02`, dates such as `20010203`, or plain numbers.

    Args:
        texts: the time stamps in the order of the file.
        lines: their lines.
        path: the file, for messages.

    Returns:
        The step, such as `"7 days, 0:00:00"`, `"1 month"` or `"2"`.

    Raises:
        InputError: a stamp cannot be read, occurs twice, is earlier than the one before or not one step after it.

    """
    kind, values = _read(texts, lines, path)
    for i in range(1, len(values)):
        at = f"{visible(path)}: line {lines[i]}: time {visible(texts[i])[:80]!r}"
        if values[i] == values[i - 1]:
            raise InputError(f"{at} is the same as in line {lines[i - 1]}; keep one row a time")
        if values[i] < values[i - 1]:
            raise InputError(f"{at} is before that of line {lines[i - 1]}; sort the rows by time")
    if len(values) < 3:
        raise InputError(f"{visible(path)}: {len(values)} rows; forecasts need more")
    gaps = [b - a for a, b in zip(values, values[1:], strict=False)]
    usual = sorted(gaps)[len(gaps) // 2]
    uneven = next((i for i, gap in enumerate(gaps) if abs(gap - usual) > TOLERANCE * usual), None)
    if uneven is None:
        return str(datetime.timedelta(seconds=usual)) if kind == "time" else f"{usual:g}"
    if kind == "time" and (months := _months(values)) is not None:
        return f"{months} month" + "s" * (months > 1)
    shown = [str(datetime.timedelta(seconds=g)) if kind == "time" else f"{g:g}" for g in (gaps[uneven], usual)]
    raise InputError(
        f"{visible(path)}: line {lines[uneven + 1]}: time {visible(texts[uneven + 1])[:80]!r} is {shown[0]} after the "
        f"one before, others are {shown[1]} apart; add missing rows with empty values"
    )


def _read(texts: Sequence[str], lines: Sequence[int], path: pathlib.Path) -> tuple[str, list[float]]:
    """Return `"time"` and seconds, or `"number"` and numbers."""
    whole = all(DAY.fullmatch(text) for text in texts)
    if not whole and all(_is_number(text) for text in texts):
        return "number", [float(text) for text in texts]
    values, aware = [], set()
    for text, line in zip(texts, lines, strict=True):
        found = MONTH.fullmatch(text)
        try:
            when = datetime.datetime.fromisoformat(f"{text}-01" if found else text)
        except ValueError:
            when = None
        if when is None and whole:  # numbers of eight digits that are no dates
            return "number", [float(text) for text in texts]
        if when is None:
            fix = "write it as 2001-02-03 or 2001-02-03T04:05"
            if not LOCAL.fullmatch(text):
                fix = f"must be a time such as 2001-02-03, a month such as 2001-02, or a number; {fix}"
            raise InputError(f"{visible(path)}: line {line}: time {visible(text)[:80]!r}: {fix}")
        aware.add(when.tzinfo is not None)
        values.append((when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp())
    if len(aware) > 1:
        raise InputError(f"{visible(path)}: some times have a time zone and others have none; write all alike")
    return "time", values


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < 2**52 and "_" not in text
    except ValueError:
        return False


def _months(values: Sequence[float]) -> int | None:
    """Return the number of months between times, if they are on the same or the last day of evenly spaced months."""
    times = [datetime.datetime.fromtimestamp(value, datetime.UTC) for value in values]
    steps = {(b.year - a.year) * 12 + b.month - a.month for a, b in zip(times, times[1:], strict=False)}
    same = len({(t.day, t.time()) for t in times}) == 1
    last = all(t.day == calendar.monthrange(t.year, t.month)[1] for t in times) and len({t.time() for t in times}) == 1
    return steps.pop() if len(steps) == 1 and (same or last) else None
