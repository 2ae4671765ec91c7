"""The interface of data sets, and the two that hold or read rows by their numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError, check_whole, named, whole_numbers
from jaxcnn.data.order import (
    ALL,
    ROWS_IN_A_DISPATCH,
    Shard,
    batches_in_chunk,
    checked_rows,
    columns,
    fill,
    once_rows,
    padded,
    stack,
    train_rows,
)
from jaxcnn.parallel.compile import Chunk, IndexedChunk, StackedChunk

Tree = Any
ALIGNMENT = 64  # bytes
OnBad = Callable[[str, int], None]  # called with a message and the number of examples that could not be read


class Data(Protocol):
    """A data set for `fit` and `evaluate`; `Resident`, `Indexed` and `tfrecord.Stream` implement it."""

    size: int
    classes: tuple[str, ...]
    seed: int
    capacity: int  # most batches in one chunk

    def example(self) -> Batch:
        """Return one row, `[1, ...]` per array, for its shapes."""
        ...

    def put(self, move: Callable[[Tree], Tree]) -> "Data":
        """Return the data set with its rows on the devices, if they are in memory; `move` copies arrays there."""
        ...

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> Chunk:
        """Return training batches `start` to `start + count`.

        Args:
            batch_size: rows per batch.
            start: number of the first batch, from 0.
            count: number of batches.
            capacity: number of batches that the chunk has room for.
            multiple: batches are padded to a multiple of this many rows with `row_mask = 0`.
            shard: `(index, number of shards)`. A chunk that is read on the host has only the rows of this shard; a
                chunk that is gathered on the device has all rows.

        """
        ...

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Yield every row once, in order.

        Args:
            batch_size: rows per batch.
            multiple: batches are padded to a multiple of this many rows with `row_mask = 0`.
            shard: see `chunk`.

        """
        ...


class Splits(NamedTuple):
    """Rows to train on, rows to validate on, and rows to test on once at the end."""

    train: Any
    valid: Any
    test: Any


def _rows(x: Any, index: np.ndarray) -> Any:
    """Return `x[index]` at a multiple of 64 bytes in memory, so that JAX on a CPU can use it without a copy."""
    if not isinstance(x, np.ndarray):
        return x[index]
    shape = (len(index), *x.shape[1:])
    room = np.empty(math.prod(shape) * x.itemsize + ALIGNMENT, np.uint8)
    out = room[-room.ctypes.data % ALIGNMENT :][: room.size - ALIGNMENT].view(x.dtype).reshape(shape)
    for i in range(0, len(index), ROWS_IN_A_DISPATCH):  # np.take(out=) would need memory for a second copy
        part = slice(i, i + ROWS_IN_A_DISPATCH)
        out[part] = x[index[part]]
    return out


def _arrays(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict with lists converted to arrays."""
    return {
        k: _arrays(x) if isinstance(x, Mapping) else x if hasattr(x, "dtype") else np.asarray(x)
        for k, x in value.items()
    }


def taken(names: tuple[str, ...] | None, index: np.ndarray) -> tuple[str, ...] | None:
    """Return the names of some rows; None if rows have no names."""
    return None if names is None else tuple(names[i] for i in np.asarray(index).tolist())


@dataclasses.dataclass(frozen=True)
class Resident:
    """Rows in memory, and on the devices after `put`; a compiled step gathers its rows by index.

    Attributes:
        arrays: dict from name to array `[N, ...]`, such as `"image"` uint8 and `"label"` int32; dicts may be nested.
        classes: class names in order of label.
        seed: seed of the order in which training reads the rows.
        capacity: most batches in one chunk.
        names: names of the rows, such as their files; they are not part of a batch.
        words: vocabulary of `"text"`, see `data.words`; a run keeps it.

    Raises:
        InputError: There are no arrays, they have different lengths, or one is a single value or is not numeric.

    """

    arrays: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    seed: int = 0
    capacity: int = 1024
    names: tuple[str, ...] | None = None
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the arrays: on a device, an index past the end of an array would silently read its last row."""
        check_whole("seed", self.seed, 0)
        check_whole("capacity", self.capacity, 1)
        arrays = _arrays(self.arrays)
        leaves = dict(named(arrays))
        if not leaves:
            raise InputError("arrays={}: a data set needs at least one array, such as 'image'")
        for name, x in leaves.items():
            if not x.shape:
                raise InputError(f"{name!r} is one value: every array must be [N, ...], one entry per row")
            if getattr(x.dtype, "kind", "") in "OSUMm":
                raise InputError(
                    f"{name!r} has dtype {x.dtype}: must be an array of numbers of one shape; leave out names and dates"
                )
        if len({len(x) for x in leaves.values()}) > 1:
            lengths = ", ".join(f"{len(x)} of {name!r}" for name, x in leaves.items())
            raise InputError(
                f"arrays of different lengths ({lengths}): each must have one entry per row; check where they come from"
            )
        if self.names is not None and len(self.names) != len(next(iter(leaves.values()))):
            raise InputError(
                f"names: {len(self.names)} for {len(next(iter(leaves.values())))} rows; each row must have one"
            )
        object.__setattr__(self, "arrays", arrays)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(jax.tree.leaves(self.arrays)[0])

    @property
    def label(self) -> np.ndarray:
        """Labels of the rows."""
        return np.asarray(self.arrays["label"])

    def example(self) -> Batch:
        """Return the first row, `[1, ...]` per array."""
        return jax.tree.map(lambda x: np.asarray(x[:1]), dict(self.arrays))

    def take(self, index: np.ndarray) -> "Resident":
        """Return the rows with these numbers; `InputError` for a mask, or for a row that does not exist."""
        index = checked_rows(index, self.size, "take")
        arrays = jax.tree.map(lambda x: _rows(x, index), dict(self.arrays))
        return dataclasses.replace(self, arrays=arrays, names=taken(self.names, index))

    def put(self, move: Callable[[Tree], Tree]) -> "Resident":
        """Move the arrays to the devices with `move`, such as `CompiledStep.replicate`."""
        return dataclasses.replace(self, arrays=move(dict(self.arrays)))

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`; every process has all rows."""
        del shard
        index, row_mask = padded(train_rows(self.seed, self.size, batch_size, start, count).astype(np.int32), multiple)
        row_mask = None if row_mask is None else fill(row_mask, capacity)
        return IndexedChunk(dict(self.arrays), fill(index, capacity), row_mask, np.int32(count))

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Yield every row once, in order, see `Data.once`."""
        index, row_mask = once_rows(self.size, batch_size, multiple)
        room = batches_in_chunk(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = index[k : k + room], row_mask[k : k + room]
            if all(isinstance(x, np.ndarray) for x in jax.tree.leaves(self.arrays)):  # still on the host
                i, r = columns(i, shard), columns(r, shard)
                rows = jax.tree.map(lambda x: x[i.reshape(-1)], dict(self.arrays))  # noqa: B023 (used at once)
                yield stack(rows, i, r, room)
            else:
                yield IndexedChunk(dict(self.arrays), fill(i, room).astype(np.int32), fill(r, room), np.int32(len(i)))


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Rows that are read by number as needed, for sets too large for memory; the order is the same as for `Resident`.

    Attributes:
        read: function from row numbers `[n]` to a dict from name to array `[n, ...]`. It may include `"row_mask"`, in
            which 0 marks rows to ignore.
        size: number of rows.
        classes: class names in order of label.
        seed: seed of the order in which training reads the rows.
        capacity: most batches in one chunk; they are in memory at the same time.
        label: labels `[N]`, if they are known without reading the rows.
        names: names of the rows, such as their files.
        read_train: like `read`, for training rows that differ each time, such as random crops. It also gets a seed per
            row, integers `[n, 2]`, which depends only on `seed` and the row's place in the order of training, so that a
            resumed run reads the same. Evaluation uses `read`.

    """

    read: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    size: int
    classes: tuple[str, ...] = ()
    seed: int = 0
    capacity: int = 8
    label: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    read_train: Callable[[np.ndarray, np.ndarray], Mapping[str, np.ndarray]] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, least in (("size", 0), ("seed", 0), ("capacity", 1)):
            check_whole(name, getattr(self, name), least)

    def example(self) -> Batch:
        """Return the first row."""
        return self.read(np.zeros(1, np.int64))

    def take(self, index: np.ndarray) -> "Indexed":
        """Return the rows with these numbers; `InputError` for a mask, or for a row that does not exist."""
        index, drawing = checked_rows(index, self.size, "take"), self.read_train
        label = None if self.label is None else self.label[index]

        def read(rows):
            return self.read(index[rows])

        def read_train(rows, seeds):
            return cast(Callable, drawing)(index[rows], seeds)

        reads = {"read": read, "read_train": read_train if drawing else None}
        return dataclasses.replace(self, **reads, size=len(index), label=label, names=taken(self.names, index))

    def put(self, move: Callable[[Tree], Tree]) -> "Indexed":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> StackedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`."""
        index, row_mask = padded(train_rows(self.seed, self.size, batch_size, start, count), multiple)
        index, row_mask = columns(index, shard), None if row_mask is None else columns(row_mask, shard)
        if self.read_train is None:
            return stack(self.read(index.reshape(-1)), index, row_mask, capacity)
        place, _ = padded(np.arange(start * batch_size, (start + count) * batch_size).reshape(count, -1), multiple)
        place = columns(place, shard).reshape(-1)
        seeds = np.stack([np.full_like(place, self.seed), place], -1)
        return stack(self.read_train(index.reshape(-1), seeds), index, row_mask, capacity)

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Yield every row once, in order, see `Data.once`."""
        index, row_mask = once_rows(self.size, batch_size, multiple)
        room = batches_in_chunk(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = columns(index[k : k + room], shard), columns(row_mask[k : k + room], shard)
            yield stack(self.read(i.reshape(-1)), i, r, room)


def sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return `(height, width)` from one number for both or from a pair; None for None.

    Raises:
        InputError: A side is below 1.

    """
    if size is None:
        return None
    height, width = whole_numbers("size", size, 2)
    return height, width
