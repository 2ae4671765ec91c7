"""The user's own data: arrays in a dict, anything with `len` and `[]`, and generators of batches."""

import dataclasses
import inspect
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import Batch, InputError, check_whole, reason
from jaxcnn.data.core import Indexed, Resident
from jaxcnn.data.order import ALL, Shard, columns, fill
from jaxcnn.parallel.compile import StackedChunk

log = logging.getLogger("jaxcnn")
ENDLESS = 2**31 - 1  # rows of a generator whose size is not known
PAIR = ("image", "label")


def as_data(value: Any) -> Any:
    """Convert a value to a data set.

    Args:
        value: a data set; a dict of arrays `[N, ...]`; or a pair of images and labels.

    Raises:
        InputError: The value is something else; the message names a function that may read it.

    """
    if hasattr(value, "chunk") and hasattr(value, "once"):  # the protocol `Data`
        return value
    if isinstance(value, Mapping):
        return Resident(value)
    if isinstance(value, tuple | list) and not hasattr(value, "_fields") and len(value) == 2:
        return Resident(dict(zip(PAIR, value, strict=True)))
    fix = (
        "give a data set, a dict of arrays or a pair (images, labels); jc.data.dataset reads anything with len and [], "
        "jc.data.Batches a generator of batches"
    )
    if hasattr(value, "train"):
        fix = "give a part of it, such as its train"
    raise InputError(f"data of type {type(value).__name__}: {fix}")


def dataset(
    rows: Any,
    *,
    names: Sequence[str] = PAIR,
    classes: Sequence[str] = (),
    seed: int = 0,
    capacity: int = 8,
    workers: int = 0,
) -> Indexed:
    """Read rows by number from anything with `len` and `[]`, such as a PyTorch `Dataset` or a Grain data source.

    The seed determines the order of the rows, so a resumed run sees the same batches.

    Args:
        rows: `rows[i]` is a dict of arrays, or a tuple of arrays in the order of `names`; values that NumPy can convert
            to arrays are accepted. A method `__getitems__`, if there is one, reads several rows at once.
        names: names of the entries of a tuple.
        classes: class names in order of label.
        seed: seed of the order in which training reads the rows.
        capacity: most batches in memory at the same time.
        workers: number of threads that read rows in parallel; 0 reads them one by one.

    Raises:
        InputError: There are no rows; or, while reading, rows have different names or shapes.

    """
    try:
        size = len(rows)
    except TypeError as error:
        raise InputError(
            f"rows of type {type(rows).__name__}: no length; give a generator of batches to jc.data.Batches"
        ) from error
    if not (hasattr(rows, "__getitem__") or hasattr(rows, "__getitems__")):  # such as a loader of batches
        raise InputError(f"rows of type {type(rows).__name__}: must support rows[i]; pass batches to jc.data.Batches")
    if size < 1:
        raise InputError("rows: there are none; give at least one")
    check_whole("workers", workers)
    if workers < 0:
        raise InputError(f"workers={workers}: must be at least 0")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rows") if workers else None

    def read(index: np.ndarray) -> Batch:
        numbers = index.tolist()
        if hasattr(rows, "__getitems__"):
            found = list(rows.__getitems__(numbers))
            if len(found) != len(numbers):
                line = f"__getitems__ returned {len(found)} rows for {len(numbers)} row numbers"
                raise InputError(f"{line}; it must return one row per number")
        else:
            found = list((pool.map if pool else map)(rows.__getitem__, numbers))
        return _stacked([_row(x, names, i) for i, x in zip(numbers, found, strict=True)], numbers)

    return Indexed(read, size, tuple(classes), seed, capacity)


def _row(value: Any, names: Sequence[str], number: int) -> dict[str, Any]:
    """Return a row as a dict of arrays."""
    if isinstance(value, tuple | list):
        if len(value) != len(names):
            raise InputError(f"row {number} has {len(value)} entries for the names {', '.join(names)}; give names=")
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, Mapping):
        raise InputError(f"row {number} is {type(value).__name__}: must be a dict of arrays, or a tuple of them")
    return {
        name: _row(x, names, number) if isinstance(x, Mapping) else _array(x, f"row {number}: {visible(name)}")
        for name, x in value.items()
    }


def _array(value: Any, where: str) -> np.ndarray:
    """Convert numbers to an array; Python's own int and float become 32 bits wide."""
    try:
        array = np.asarray(value)
    except Exception as error:
        raise InputError(f"{where}: cannot be converted to an array ({reason(error)})") from error
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise InputError(f"{where}: has dtype {array.dtype}; must be numbers")
    if hasattr(value, "dtype"):
        return array
    whole = array.dtype.kind == "i" or array.dtype == np.uint64  # which NumPy makes of large integers of Python
    narrow = array.astype(np.int32 if whole else np.float32 if array.dtype.kind == "f" else array.dtype)
    if array.dtype.kind in "iu" and (narrow != array).any():
        raise InputError(f"{where}: {array[narrow != array].flat[0]} does not fit into 32 bits; use a smaller number")
    return narrow


def _stacked(rows: list[dict[str, Any]], numbers: Sequence[int]) -> dict[str, Any]:
    """Stack rows to arrays `[n, ...]`."""
    first = jax.tree.structure(rows[0])
    for number, row in zip(numbers, rows, strict=True):
        if jax.tree.structure(row) != first:
            raise InputError(
                f"row {number} has {', '.join(sorted(row))}, and row {numbers[0]} has {', '.join(sorted(rows[0]))}"
            )

    def join(*parts: np.ndarray) -> np.ndarray:
        for number, x in zip(numbers, parts, strict=True):
            if x.shape != parts[0].shape:
                raise InputError(
                    f"row {number} has an array of shape {x.shape}, and row {numbers[0]} one of {parts[0].shape}; "
                    "resize them"
                )
        return np.stack(parts)

    return jax.tree.map(join, *rows)


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches from a generator, in the generator's order.

    Attributes:
        make: function that returns an iterator of batches, which are dicts of arrays `[B, ...]`. With a parameter
            `start`, it returns an iterator that starts at batch number `start` (from 0), and a resumed run continues
            there. Without one, a resumed run generates the earlier batches again and drops them, which is exact only if
            the generator always yields the same batches. When the iterator ends, training calls `make` again.
        size: rows in one pass, for epochs; 0 if it is not known.
        classes: class names in order of label.
        seed: recorded with the run; it does not affect the order.
        capacity: most batches in memory at the same time.

    Raises:
        InputError: While reading: there is no batch, or batches have different names or shapes.

    """

    make: Callable[..., Iterator[Mapping[str, Any]]]
    size: int = 0
    classes: tuple[str, ...] = ()
    seed: int = 0
    capacity: int = 8
    _reader: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the fields, and replace an unknown size by `ENDLESS`."""
        if not callable(self.make):
            raise InputError(
                f"make={type(self.make).__name__}: must be a function that returns a new iterator of batches"
            )
        if self.size < 0:
            raise InputError(f"size={self.size}: must be at least 0")
        object.__setattr__(self, "size", self.size or ENDLESS)

    def example(self) -> Batch:
        """Return the first row of the first batch."""
        if "example" not in self._reader:
            first = next(self._from(0, endless=False), None)
            if first is None:
                raise InputError("make: gives no batch; its iterator must give at least one")
            self._reader["example"] = jax.tree.map(lambda x: x[:1], first)
        return self._reader["example"]

    def put(self, move: Callable[[Any], Any]) -> "Batches":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> StackedChunk:
        """Return training batches `start` to `start + count`; a chunk that follows the last one continues its iterator.

        Arguments are those of `Data.chunk`.
        """
        if self._reader.get("at") != start:
            self._reader["rows"] = self._from(start, endless=True)
        self._reader.pop("at", None)  # if reading fails, the next call starts a new iterator
        found = list(itertools.islice(self._reader["rows"], count))
        self._reader["at"] = start + count
        width = -(-batch_size // multiple) * multiple
        rows = [_widened(batch, batch_size, width, start + i) for i, batch in enumerate(found)]
        return _chunk(rows, capacity, shard)

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Yield every row of one pass once, in batches of at most `batch_size` rows, padded with `row_mask = 0`.

        Arguments are those of `Data.once`.
        """
        width, left, number = -(-batch_size // multiple) * multiple, self.size, 0
        for batch in self._from(0, endless=False):
            rows = len(jax.tree.leaves(batch)[0])
            for at in range(0, min(rows, left), batch_size):
                piece = jax.tree.map(lambda x: x[at : min(at + batch_size, left)], batch)  # noqa: B023 (used at once)
                yield _chunk([_widened(piece, batch_size, width, number)], 1, shard)
                number += 1
            left -= rows
            if left <= 0:
                return
        if not number:
            raise InputError("make: gives no batch; its iterator must give at least one")

    def _from(self, start: int, endless: bool) -> Iterator[dict[str, Any]]:
        """Yield batches from number `start` on."""
        takes_start = _takes_start(self.make)
        number = start if takes_start else 0
        if number < start:
            log.warning("make takes no argument: %d batches are generated again to continue after them", start)
        while True:
            begun = number
            for batch in self.make(number) if takes_start else self.make():
                if number >= start:
                    yield _checked(batch, number)
                number += 1
            if not endless:
                return
            if number == begun:
                raise InputError(f"make: gives no batch from number {number} on; it must give at least one each time")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the iterator: a copy starts its own."""
        return {**vars(self), "_reader": {}}


def _takes_start(make: Callable[..., Any]) -> bool:
    """Whether a function takes the number of its first batch; a parameter with a default is the user's own."""
    parameters = inspect.signature(make).parameters.values()
    return any(
        p.name == "start" or p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _checked(batch: Any, number: int) -> dict[str, Any]:
    """Return a batch as arrays with the same number of rows."""
    if not isinstance(batch, Mapping) or not batch:
        raise InputError(f"make: batch {number} is {type(batch).__name__}: must be a dict of arrays [B, ...]")
    batch = _row(batch, (), number)
    lengths = {x.shape[0] if x.ndim else 0 for x in jax.tree.leaves(batch)}
    if len(lengths) > 1 or 0 in lengths:
        raise InputError(
            f"make: batch {number} has arrays of {', '.join(map(str, sorted(lengths)))} rows; "
            "must be the same, and at least 1"
        )
    return batch


def _widened(batch: dict[str, Any], batch_size: int, width: int, number: int) -> dict[str, Any]:
    """Pad a batch to `width` rows with `row_mask = 0`."""
    rows = len(jax.tree.leaves(batch)[0])
    if rows > batch_size:
        raise InputError(
            f"make: batch {number} has {rows} rows, more than batch_size={batch_size}; make smaller batches"
        )
    row_mask = batch.get("row_mask", np.ones(rows, np.float32))
    return jax.tree.map(lambda x: fill(x, width), {**batch, "row_mask": row_mask})


def _chunk(batches: list[dict[str, Any]], capacity: int, shard: Shard) -> StackedChunk:
    """Make a chunk with room for `capacity` batches, with the columns of one shard."""
    stacked = _stacked(batches, range(len(batches)))
    return StackedChunk(jax.tree.map(lambda x: fill(columns(x, shard), capacity), stacked), np.int32(len(batches)))
