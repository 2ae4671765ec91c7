"""What a data set is to the loop: rows in an order that is a function of (seed, step), so there is nothing to save or restore."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError, named
from jaxcnn.parallel.compile import Chunk, IndexedChunk, StackedChunk

Tree = Any
ROWS_IN_A_DISPATCH = 4096
ALIGNMENT = 64  # bytes
Shard = tuple[int, int]
ALL: Shard = (0, 1)
OnBad = Callable[[str, int], None]  # told what could not be read, and how many examples that is


class Data(Protocol):
    """Rows that `fit` and `evaluate` can read; `Resident`, `Indexed` and `tfrecord.Stream` are three ways to hold them."""

    size: int
    classes: tuple[str, ...]
    seed: int
    capacity: int  # batches in one chunk at most

    def example(self) -> Batch:
        """Return one row, for shapes."""
        ...

    def put(self, move: Callable[[Tree], Tree]) -> "Data":
        """Move what can live on the device to the device, once."""
        ...

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> Chunk:
        """Return training batches `start` to `start + count`, in a chunk that has room for `capacity`.

        A batch that is no multiple of `multiple` rows is padded with `row_mask = 0`. `shard` is (which, of how many): of a batch
        that is read, rather than gathered on the device, only these columns come.
        """
        ...

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Give every row once, in order; each batch is padded with `row_mask = 0` to a multiple of `multiple` rows."""
        ...


class Splits(NamedTuple):
    """Rows to learn from, rows to make choices on, and rows to read once at the end."""

    train: Any
    valid: Any
    test: Any


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def train_rows(seed: int, size: int, batch_size: int, start: int, count: int) -> np.ndarray:
    """Rows of batches `start` to `start + count`, `[count, batch_size]`: one permutation after another, each row once an epoch."""
    place = np.arange(start * batch_size, (start + count) * batch_size)
    epochs = place // size
    out = np.empty(len(place), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = _permutation(seed, int(epoch), size)[place[here] % size]
    return out.reshape(count, batch_size)


def once_rows(size: int, batch_size: int, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Every row once, in order: index and `row_mask`, each `[steps, width]`; padding repeats row 0, and no rows are no steps."""
    batch_size = max(min(batch_size, size), 1)
    steps, width = -(-size // batch_size), -(-batch_size // multiple) * multiple
    place = np.arange(batch_size)[None] + batch_size * np.arange(steps)[:, None]
    inside = np.pad(place < size, ((0, 0), (0, width - batch_size)))
    return np.where(inside, np.pad(place, ((0, 0), (0, width - batch_size))), 0), inside.astype(np.float32)


def padded(index: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Widen batches of row numbers `[steps, B]` to a multiple, and say what is `row_mask`; None where nothing is padding."""
    more = -index.shape[1] % multiple
    if not more:
        return index, None
    return np.pad(index, ((0, 0), (0, more))), np.pad(np.ones(index.shape, np.float32), ((0, 0), (0, more)))


def columns(x: np.ndarray, shard: Shard) -> np.ndarray:
    """Return the columns of `[steps, B]` that are one share's."""
    width = x.shape[1] // shard[1]
    return x[:, shard[0] * width : (shard[0] + 1) * width]


def _room(capacity: int, index: np.ndarray) -> int:
    """Batches in one chunk of an evaluation, which cannot be paced by the time that the last one took.

    A power of two where the rows are few, so that validation and test run the same program.
    """
    steps, width = index.shape
    return max(min(capacity, 1 << max(steps - 1, 0).bit_length(), ROWS_IN_A_DISPATCH // max(width, 1)), 1)


def stack(
    rows: Mapping[str, np.ndarray], index: np.ndarray, row_mask: np.ndarray | None, capacity: int
) -> StackedChunk:
    """Make a chunk with room for `capacity` batches of rows that were read in the order of `index` `[count, B]`.

    It is a copy: on a CPU the chunk may be the device's own memory, and whoever read the rows may use theirs again.
    """
    if row_mask is not None:
        rows = {**rows, "row_mask": rows.get("row_mask", 1) * row_mask.reshape(-1)}

    def batched(x: np.ndarray) -> np.ndarray:
        batches = np.zeros((capacity, index.shape[1], *x.shape[1:]), x.dtype)
        batches[: len(index)] = x.reshape(*index.shape, *x.shape[1:])
        return batches

    return StackedChunk(jax.tree.map(batched, dict(rows)), np.int32(len(index)))


def fill(x: np.ndarray, capacity: int) -> np.ndarray:
    """Append zeros until there are `capacity` rows."""
    return np.concatenate([x, np.zeros((capacity - len(x), *x.shape[1:]), x.dtype)]) if len(x) < capacity else x


def _rows(x: Any, index: np.ndarray) -> Any:
    """`x[index]`, where JAX on a CPU uses it in place: it copies what does not begin at a multiple of 64 bytes."""
    if not isinstance(x, np.ndarray):
        return x[index]
    shape = (len(index), *x.shape[1:])
    room = np.empty(math.prod(shape) * x.itemsize + ALIGNMENT, np.uint8)
    out = room[-room.ctypes.data % ALIGNMENT :][: room.size - ALIGNMENT].view(x.dtype).reshape(shape)
    for i in range(0, len(index), ROWS_IN_A_DISPATCH):  # np.take(out=) would hold all of them twice
        part = slice(i, i + ROWS_IN_A_DISPATCH)
        out[part] = x[index[part]]
    return out


def _arrays(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict of arrays, lists made arrays."""
    return {
        k: _arrays(x) if isinstance(x, Mapping) else x if hasattr(x, "dtype") else np.asarray(x)
        for k, x in value.items()
    }


def taken(names: tuple[str, ...] | None, index: np.ndarray) -> tuple[str, ...] | None:
    """Return the names of some rows, where rows have names."""
    return None if names is None else tuple(names[i] for i in np.asarray(index).tolist())


@dataclasses.dataclass(frozen=True)
class Resident:
    """Rows in memory, on the devices after `put`; a compiled step picks its rows by index.

    Attributes:
        arrays: name to `[N, ...]`, such as `"image"` uint8 and `"label"` int32; dicts of arrays may stand in place of arrays.
        classes: names in order of label.
        seed: of the order in which training reads the rows.
        capacity: batches in one chunk at most.
        names: of the rows, such as their files, beside the arrays: no batch has them.

    Raises:
        InputError: no arrays, arrays of different lengths, or one without rows or without numbers.

    """

    arrays: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    seed: int = 0
    capacity: int = 1024
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together: an index past the end of one would read its last row."""
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
        """Return the first row, `[1, ...]` each."""
        return jax.tree.map(lambda x: np.asarray(x[:1]), dict(self.arrays))

    def take(self, index: np.ndarray) -> "Resident":
        """Return some of the rows."""
        arrays = jax.tree.map(lambda x: _rows(x, np.asarray(index)), dict(self.arrays))
        return dataclasses.replace(self, arrays=arrays, names=taken(self.names, index))

    def put(self, move: Callable[[Tree], Tree]) -> "Resident":
        """Move the arrays to the devices with `move`, such as `CompiledStep.replicate`."""
        return dataclasses.replace(self, arrays=move(dict(self.arrays)))

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> IndexedChunk:
        """Return training batches `start` to `start + count`; every process has all rows."""
        del shard
        index, row_mask = padded(train_rows(self.seed, self.size, batch_size, start, count).astype(np.int32), multiple)
        return IndexedChunk(
            dict(self.arrays),
            fill(index, capacity),
            None if row_mask is None else fill(row_mask, capacity),
            np.int32(count),
        )

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Give every row once, in order."""
        index, row_mask = once_rows(self.size, batch_size, multiple)
        room = _room(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = index[k : k + room], row_mask[k : k + room]
            if all(isinstance(x, np.ndarray) for x in jax.tree.leaves(self.arrays)):  # still on the host
                i, r = columns(i, shard), columns(r, shard)
                yield stack(jax.tree.map(lambda x: x[i.reshape(-1)], dict(self.arrays)), i, r, room)  # noqa: B023 (used at once)
            else:
                yield IndexedChunk(dict(self.arrays), fill(i, room).astype(np.int32), fill(r, room), np.int32(len(i)))


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Rows that are read by number when they are needed: sets too large for memory, in the same order as resident ones.

    Attributes:
        read: `index [n] -> {name: [n, ...]}`; with `"row_mask"` among them, rows of 0 count nowhere.
        size: number of rows.
        classes: names in order of label.
        seed: of the order in which training reads the rows.
        capacity: batches in one chunk at most; they are in memory together.
        label: of the rows, where they are known without reading.
        names: of the rows, such as their files.

    """

    read: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    size: int
    classes: tuple[str, ...] = ()
    seed: int = 0
    capacity: int = 8
    label: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    def example(self) -> Batch:
        """Return the first row."""
        return self.read(np.zeros(1, np.int64))

    def take(self, index: np.ndarray) -> "Indexed":
        """Return some of the rows."""
        index = np.asarray(index)
        label = None if self.label is None else self.label[index]

        def read(rows):
            return self.read(index[rows])

        return dataclasses.replace(self, read=read, size=len(index), label=label, names=taken(self.names, index))

    def put(self, move: Callable[[Tree], Tree]) -> "Indexed":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> StackedChunk:
        """Return training batches `start` to `start + count`."""
        index, row_mask = padded(train_rows(self.seed, self.size, batch_size, start, count), multiple)
        index, row_mask = columns(index, shard), None if row_mask is None else columns(row_mask, shard)
        return stack(self.read(index.reshape(-1)), index, row_mask, capacity)

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Give every row once, in order."""
        index, row_mask = once_rows(self.size, batch_size, multiple)
        room = _room(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = columns(index[k : k + room], shard), columns(row_mask[k : k + room], shard)
            yield stack(self.read(i.reshape(-1)), i, r, room)


def sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width, from one number for both or two.

    Raises:
        InputError: a side below 1.

    """
    if size is None:
        return None
    height, width = cast(tuple[int, int], (size, size) if np.ndim(size) == 0 else size)
    if min(height, width) < 1:
        raise InputError(f"size={size}: must be at least 1")
    return height, width
