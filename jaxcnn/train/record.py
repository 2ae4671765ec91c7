"""The counters that the loop needs to resume exactly, saved as JSON beside the state."""

import bisect
import dataclasses
import difflib
import logging
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

SAME = ("batch_size", "seed", "rows", "monitor", "mode")  # fields that a resumed run must repeat
COLUMNS = ("step", "seconds", "learning_rate")  # and train/...: the columns that fit itself adds to a row
STORED = {"skipped_batches": "passed"}  # fields whose names differ in the checkpoint format
LARGEST = 10_000  # elements of an array in a row: a confusion matrix of 100 classes
log = logging.getLogger("jaxcnn")


@dataclasses.dataclass
class Record:
    """The counters of a run.

    Attributes:
        batch_size: rows per step. A resume must repeat it, like the next four fields.
        seed: seed of the data's order.
        rows: number of training rows.
        monitor: name of the monitored value, or None.
        mode: `"min"` or `"max"`; None in a checkpoint of an older version.
        best: the best monitored value so far.
        best_step: its step.
        stale: number of validations since then.
        history: one row per validation.
        partial: sums since the last validation, if this was saved between two.
        seconds: training time since the last validation.
        skipped_batches: `[step, batches]` pairs, the batches that rollbacks left out.
        fingerprint: the fingerprint of the run, see `fingerprint.describe`.

    """

    batch_size: int
    seed: int
    rows: int
    monitor: str | None
    mode: str | None = None
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    partial: list[Any] | None = None
    seconds: float = 0.0
    skipped_batches: list[list[int]] = dataclasses.field(default_factory=list)
    fingerprint: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Return a dict from stored names to values. Values are not copied, because the history is long."""
        return {STORED.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)}

    def again(self) -> "Record":
        """Return the record that this run had before its first step."""
        return Record(*(getattr(self, name) for name in SAME), fingerprint=self.fingerprint)


def restored(loop: Mapping[str, Any], now: Record, step: int) -> Record:
    """Build the record of a checkpoint, and check that it belongs to the same run.

    Args:
        loop: the stored fields.
        now: the record of the run that resumes.
        step: step of the checkpoint, for messages.

    Returns:
        The stored record.

    Raises:
        InputError: the checkpoint was not saved by `fit`, or was saved with different settings.

    """
    names = {STORED.get(field.name, field.name): field.name for field in dataclasses.fields(Record)}
    missing = [name for name in ("batch_size", "seed", "rows", "monitor") if name not in loop]
    if missing:
        raise InputError(f"resume: checkpoint {step} has no {missing[0]} in its record; give a different workdir")
    saved = Record(**{names[name]: value for name, value in loop.items() if name in names})
    saved.mode = saved.mode or now.mode
    for name in SAME:
        if getattr(saved, name) != getattr(now, name):
            was = visible(getattr(saved, name))[:80]
            raise InputError(
                f"resume: {name} was {was} and is now {getattr(now, name)}; "
                f"give the same {name}, or a different workdir"
            )
    if (saved.best is None) != (saved.best_step is None):
        saved.best = saved.best_step = None
    return saved


def row_of(
    own: Mapping[str, Any], sums: Mapping[str, Any], values: Mapping[str, Any] | None, monitor: str | None = None
) -> dict[str, Any]:
    """Build a row of the history: plain numbers and text, and arrays of up to `LARGEST` numbers.

    Args:
        own: the loop's own columns.
        sums: the training metrics, whose names get the prefix `train/`.
        values: what `validate` returned.
        monitor: name of the monitored value.

    Returns:
        The row. Values of other types and larger arrays are left out.

    Raises:
        InputError: `validate` returned no dict or a reserved name, or `monitor` is missing or not a number.

    """
    values = checked(values)
    trained = {f"train/{name}": value for name, value in sums.items()}
    check_monitor(monitor, {**own, **values, **trained})
    row = {name: _number(value) for name, value in {**own, **trained, **values}.items()}
    return {name: value for name, value in row.items() if _is_kept(value)}


def checked(values: Any) -> dict[str, Any]:
    """Check that a row can hold what `validate` returned.

    Args:
        values: what `validate` returned.

    Returns:
        A copy of it.

    Raises:
        InputError: it is not a dict whose keys are strings, or a name is reserved for the loop's own columns.

    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise InputError(f"validate returned {type(values).__name__}; it must return a dict from names to numbers")
    for name in values:
        if name in COLUMNS or name.startswith("train/"):
            raise InputError(
                f"validate returned {name!r}, a name that fit itself uses; rename it, for example to "
                f"{'validation/' + name!r}"
            )
    return dict(values)


def check_monitor(monitor: str | None, values: Mapping[str, Any]) -> None:
    """Check the monitored value.

    Args:
        monitor: its name, or None.
        values: the candidates, a dict from names to values.

    Raises:
        InputError: no value has this name, or it is not a single number.

    """
    if monitor is None:
        return
    numbers = [name for name, value in values.items() if _is_number(value) and name not in COLUMNS]
    near = [
        name for name in numbers if name.rpartition("/")[2] == monitor.rpartition("/")[2]
    ] or difflib.get_close_matches(monitor, numbers)
    listed = ", ".join([*numbers[:8], *(["..."] if numbers[8:] else [])])
    choice = f"did you mean {' or '.join(near)}?" if near else f"give one of {listed}"
    choice = choice if numbers else "give a validate function that returns it"
    if monitor not in values:
        raise InputError(f"monitor={monitor!r}: neither validate nor training returns it; {choice}")
    if not _is_number(values[monitor]):
        shape = list(np.shape(values[monitor]))
        kind = f"an array of shape {shape}" if shape else type(values[monitor]).__name__
        raise InputError(f"monitor={monitor!r}: is {kind}, and must be a single number; {choice}")


def _number(value: Any) -> Any:
    """Convert a zero-dimensional array of any library to a Python number."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


def _is_kept(value: Any) -> bool:
    """Whether a row keeps a value: scalars, text, and numeric arrays of up to `LARGEST` elements."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.size <= LARGEST and np.asarray(value).dtype.kind in "biuf"
    return isinstance(value, bool | int | float | str | None)


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and isinstance(_number(value), int | float)


def improves(record: Record, row: Mapping[str, Any]) -> bool:
    """Update the best value and the count of stale validations.

    Args:
        record: the record to update.
        row: the newest row.

    Returns:
        Whether the row is the best so far. A row whose value is NaN or infinite never is.

    """
    if record.monitor is None:
        return False
    value = float(row[record.monitor])
    better = math.isfinite(value) and (record.best is None or _key(record, value) < _key(record, record.best))
    if better:
        record.best, record.best_step, record.stale = value, row["step"], 0
    else:
        record.stale += 1
    return better


def _key(record: Record, value: float) -> float:
    return -value if record.mode == "max" else value


class Ranking:
    """The steps with the best monitored values, the best first.

    Args:
        record: the record with the rows so far.
        keep: number of steps to keep.

    """

    def __init__(self, record: Record, keep: int):
        self.record, self.keep, self.ranked = record, keep, []
        for row in record.history:
            self.add(row)
        if record.best_step is not None and record.best is not None:  # the row itself may be lost
            self._insert(record.best, record.best_step)

    def add(self, row: Mapping[str, Any]) -> None:
        """Rank a row."""
        value = row.get(self.record.monitor) if self.record.monitor else None
        if isinstance(value, int | float) and math.isfinite(value) and isinstance(row.get("step"), int):
            self._insert(value, row["step"])

    def _insert(self, value: float, step: int) -> None:
        entry = (_key(self.record, value), step)
        if entry not in self.ranked:
            bisect.insort(self.ranked, entry)
            del self.ranked[self.keep :]

    def steps(self) -> list[int]:
        """Return the steps, the best first."""
        return [step for _, step in self.ranked]


def as_lists(sums: Any) -> list[Any]:
    """Convert sums to JSON values."""
    return [np.asarray(x).tolist() for x in jax.tree.leaves(sums)]


def from_lists(zero: Any, saved: list[Any] | None) -> Any:
    """Undo `as_lists`.

    Args:
        zero: sums of no batches, whose structure the result has.
        saved: what `as_lists` returned, or None.

    Returns:
        The sums. They are `zero` if nothing was saved or, with a warning, if it belongs to different metrics.

    """
    if saved is None:
        return zero
    leaves, kind = jax.tree.flatten(zero)
    try:
        sums = [np.asarray(x, np.float64) for x in saved]
    except (TypeError, ValueError):
        sums = []
    if [x.shape for x in sums] != [np.shape(x) for x in leaves]:
        log.warning("the metrics differ from those of the run that stopped: their sums start again at this step")
        return zero
    return jax.tree.unflatten(kind, sums)
