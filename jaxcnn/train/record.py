"""What the loop itself must remember to go on exactly: plain numbers, saved as JSON beside the state."""

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

SAME = ("batch_size", "seed", "rows", "monitor", "mode")  # of one run
COLUMNS = ("step", "seconds", "learning_rate")  # and train/...: what fit itself puts in a row
STORED = {"skipped_batches": "passed"}  # fields that checkpoints call otherwise: the name is part of their format
LARGEST = 10_000  # values of an array that a row keeps, such as a confusion matrix of 100 classes
log = logging.getLogger("jaxcnn")


@dataclasses.dataclass
class Record:
    """The counters of a run.

    Attributes:
        batch_size: with `seed`, `rows`, `monitor` and `mode`, what a resume must give again.
        best: value of `monitor`, of step `best_step`.
        stale: validations since then.
        history: a row for each validation.
        partial: sums since the last validation, when saved between two.
        seconds: the time that they took.
        skipped_batches: `(step, batches)` each, left out by rolling back.
        fingerprint: of what is trained, see `fingerprint.describe`.

    """

    batch_size: int
    seed: int
    rows: int
    monitor: str | None
    mode: str | None = None  # older runs do not say
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    partial: list[Any] | None = None
    seconds: float = 0.0
    skipped_batches: list[list[int]] = dataclasses.field(default_factory=list)
    fingerprint: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Return the fields by name, not copied: the history is long."""
        return {STORED.get(field.name, field.name): getattr(self, field.name) for field in dataclasses.fields(self)}

    def again(self) -> "Record":
        """Return the record of the same run before its first step."""
        return Record(*(getattr(self, name) for name in SAME), fingerprint=self.fingerprint)


def restored(loop: Mapping[str, Any], now: Record, step: int) -> Record:
    """Make the record of a checkpoint, and check that it is of the run that goes on.

    Raises:
        InputError: it was saved by something else than `fit`, or with other settings.

    """
    names = {STORED.get(field.name, field.name): field.name for field in dataclasses.fields(Record)}
    missing = [name for name in ("batch_size", "seed", "rows", "monitor") if name not in loop]
    if missing:
        raise InputError(f"resume: checkpoint {step} has no {missing[0]} in its record; give another workdir")
    saved = Record(**{names[name]: value for name, value in loop.items() if name in names})
    saved.mode = saved.mode or now.mode
    for name in SAME:
        if getattr(saved, name) != getattr(now, name):
            was = visible(getattr(saved, name))[:80]
            raise InputError(
                f"resume: {name} was {was} and is now {getattr(now, name)}; give the same, or another workdir"
            )
    if (saved.best is None) != (saved.best_step is None):
        saved.best = saved.best_step = None
    return saved


def row_of(
    own: Mapping[str, Any], sums: Mapping[str, Any], values: Mapping[str, Any] | None, monitor: str | None = None
) -> dict[str, Any]:
    """Join the loop's own columns, the training metrics and what `validate` gave into a row: plain numbers, and arrays up to `LARGEST`.

    Raises:
        InputError: `validate` gave no dict of names, or a name that is taken; `monitor` is not there, or is no number.

    """
    values = checked(values)
    trained = {f"train/{name}": value for name, value in sums.items()}
    check_monitor(monitor, {**own, **values, **trained})
    row = {name: _number(value) for name, value in {**own, **trained, **values}.items()}
    return {name: value for name, value in row.items() if _is_kept(value)}


def checked(values: Any) -> dict[str, Any]:
    """Return what `validate` gave, if a row can hold it.

    Raises:
        InputError: it is no dict of names, or a name is one of the loop's own.

    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise InputError(f"validate gave {type(values).__name__}; it must return a dict from names to numbers")
    for name in values:
        if name in COLUMNS or name.startswith("train/"):
            raise InputError(
                f"validate gave {name!r}, which is a column of fit itself; rename it, to {'validation/' + name!r} for example"
            )
    return dict(values)


def check_monitor(monitor: str | None, values: Mapping[str, Any]) -> None:
    """Refuse a monitor that is not among the values, or is not one number."""
    if monitor is None:
        return
    numbers = [name for name, value in values.items() if _is_number(value) and name not in COLUMNS]
    near = [
        name for name in numbers if name.rpartition("/")[2] == monitor.rpartition("/")[2]
    ] or difflib.get_close_matches(monitor, numbers)
    choice = (
        f"did you mean {' or '.join(near)}?"
        if near
        else f"give one of {', '.join([*numbers[:8], *(['...'] if numbers[8:] else [])])}"
    )
    choice = choice if numbers else "give validate, which returns such numbers"
    if monitor not in values:
        raise InputError(f"monitor={monitor!r}: neither validate nor training gives it; {choice}")
    if not _is_number(values[monitor]):
        kind = (
            f"an array of shape {list(np.shape(values[monitor]))}"
            if np.ndim(values[monitor])
            else type(values[monitor]).__name__
        )
        raise InputError(f"monitor={monitor!r}: {kind}, and must be one number; {choice}")


def _number(value: Any) -> Any:
    """Plain Python's number of an array without axes, of whatever library."""
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


def _is_kept(value: Any) -> bool:
    """Whether a row keeps a value: single ones, and arrays of numbers that are not large."""
    if isinstance(value, np.ndarray | jax.Array):
        return value.size <= LARGEST and np.asarray(value).dtype.kind in "biuf"
    return isinstance(value, bool | int | float | str | None)


def _is_number(value: Any) -> bool:
    return np.ndim(value) == 0 and isinstance(_number(value), int | float)


def improves(record: Record, row: Mapping[str, Any]) -> bool:
    """Count a row, and tell whether it is the best so far; one that is not finite never is."""
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
    """Steps that were validated, the best first, as many as are kept.

    Args:
        record: with the rows so far.
        keep: how many.

    """

    def __init__(self, record: Record, keep: int):
        self.record, self.keep, self.ranked = record, keep, []
        for row in record.history:
            self.add(row)
        if record.best_step is not None and record.best is not None:  # its row may be lost
            self._insert(record.best, record.best_step)

    def add(self, row: Mapping[str, Any]) -> None:
        """Rank one more row."""
        value = row.get(self.record.monitor) if self.record.monitor else None
        if isinstance(value, int | float) and math.isfinite(value) and isinstance(row.get("step"), int):
            self._insert(value, row["step"])

    def _insert(self, value: float, step: int) -> None:
        entry = (_key(self.record, value), step)
        if entry not in self.ranked:
            bisect.insort(self.ranked, entry)
            del self.ranked[self.keep :]

    def steps(self) -> list[int]:
        """Return the steps."""
        return [step for _, step in self.ranked]


def as_lists(sums: Any) -> list[Any]:
    """Sums as plain JSON values."""
    return [np.asarray(x).tolist() for x in jax.tree.leaves(sums)]


def from_lists(zero: Any, saved: list[Any] | None) -> Any:
    """Sums that `as_lists` made plain; `zero` where there are none, or, with a warning, where they are of other metrics."""
    if saved is None:
        return zero
    leaves, kind = jax.tree.flatten(zero)
    try:
        sums = [np.asarray(x, np.float64) for x in saved]
    except (TypeError, ValueError):
        sums = []
    if [x.shape for x in sums] != [np.shape(x) for x in leaves]:
        log.warning(
            "the metrics are not those that were being summed when the run was stopped: they count from here on"
        )
        return zero
    return jax.tree.unflatten(kind, sums)
