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
from jaxcnn.tasks.pixels import check_layout

Tree = Any
ROWS_IN_A_DISPATCH = 4096
ALIGNMENT = 64  # bytes
Share = tuple[int, int]
ALL: Share = (0, 1)
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

    def placed(self, put: Callable[[Tree], Tree]) -> "Data":
        """Move what can live on the device to the device, once."""
        ...

    def chunk(self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, share: Share = ALL) -> Chunk:
        """Return training batches `start` to `start + count`, in a chunk that has room for `capacity`.

        A batch that is no multiple of `multiple` rows is padded with `real = 0`. `share` is (which, of how many): of a batch
        that is read, rather than gathered on the device, only these columns come.
        """
        ...

    def once(self, batch_size: int, multiple: int = 1, share: Share = ALL) -> Iterator[Chunk]:
        """Give every row once, in order; each batch is padded with `real = 0` to a multiple of `multiple` rows."""
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
    """Every row once, in order: index and `real`, each `[steps, width]`; padding repeats row 0, and no rows are no steps."""
    batch_size = max(min(batch_size, size), 1)
    steps, width = -(-size // batch_size), -(-batch_size // multiple) * multiple
    place = np.arange(batch_size)[None] + batch_size * np.arange(steps)[:, None]
    inside = np.pad(place < size, ((0, 0), (0, width - batch_size)))
    return np.where(inside, np.pad(place, ((0, 0), (0, width - batch_size))), 0), inside.astype(np.float32)


def padded(index: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Widen batches of row numbers `[steps, B]` to a multiple, and say what is `real`; None where nothing is padding."""
    more = -index.shape[1] % multiple
    if not more:
        return index, None
    return np.pad(index, ((0, 0), (0, more))), np.pad(np.ones(index.shape, np.float32), ((0, 0), (0, more)))


def columns(x: np.ndarray, share: Share) -> np.ndarray:
    """Return the columns of `[steps, B]` that are one share's."""
    width = x.shape[1] // share[1]
    return x[:, share[0] * width : (share[0] + 1) * width]


def _room(capacity: int, index: np.ndarray) -> int:
    """Batches in one chunk of an evaluation, which cannot be paced by the time that the last one took.

    A power of two where the rows are few, so that validation and test run the same program.
    """
    steps, width = index.shape
    return max(min(capacity, 1 << max(steps - 1, 0).bit_length(), ROWS_IN_A_DISPATCH // max(width, 1)), 1)


def stack(rows: Mapping[str, np.ndarray], index: np.ndarray, real: np.ndarray | None, capacity: int) -> StackedChunk:
    """Make a chunk with room for `capacity` batches of rows that were read in the order of `index` `[count, B]`.

    It is a copy: on a CPU the chunk may be the device's own memory, and whoever read the rows may use theirs again.
    """
    if real is not None:
        rows = {**rows, "real": rows.get("real", 1) * real.reshape(-1)}

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
    return {k: _arrays(x) if isinstance(x, Mapping) else x if hasattr(x, "dtype") else np.asarray(x) for k, x in value.items()}


def taken(names: tuple[str, ...] | None, index: np.ndarray) -> tuple[str, ...] | None:
    """Return the names of some rows, where rows have names."""
    return None if names is None else tuple(names[i] for i in np.asarray(index).tolist())


@dataclasses.dataclass(frozen=True)
class Resident:
    """Rows in memory, on the device once placed; a compiled step picks its rows by index.

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
                raise InputError(f"{name!r} has dtype {x.dtype}: must be an array of numbers of one shape; leave out names and dates")
        if len({len(x) for x in leaves.values()}) > 1:
            lengths = ", ".join(f"{len(x)} of {name!r}" for name, x in leaves.items())
            raise InputError(f"arrays of different lengths ({lengths}): each must have one entry per row; check where they come from")
        if self.names is not None and len(self.names) != len(next(iter(leaves.values()))):
            raise InputError(f"names: {len(self.names)} for {len(next(iter(leaves.values())))} rows; each row must have one")
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

    def placed(self, put: Callable[[Tree], Tree]) -> "Resident":
        """Put the arrays where a run wants them."""
        return dataclasses.replace(self, arrays=put(dict(self.arrays)))

    def chunk(self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, share: Share = ALL) -> IndexedChunk:
        """Return training batches `start` to `start + count`; every process has all rows."""
        del share
        index, real = padded(train_rows(self.seed, self.size, batch_size, start, count).astype(np.int32), multiple)
        return IndexedChunk(dict(self.arrays), fill(index, capacity), None if real is None else fill(real, capacity), np.int32(count))

    def once(self, batch_size: int, multiple: int = 1, share: Share = ALL) -> Iterator[Chunk]:
        """Give every row once, in order."""
        index, real = once_rows(self.size, batch_size, multiple)
        room = _room(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = index[k : k + room], real[k : k + room]
            if all(isinstance(x, np.ndarray) for x in jax.tree.leaves(self.arrays)):  # not placed
                i, r = columns(i, share), columns(r, share)
                yield stack(jax.tree.map(lambda x: x[i.reshape(-1)], dict(self.arrays)), i, r, room)  # noqa: B023 (used at once)
            else:
                yield IndexedChunk(dict(self.arrays), fill(i, room).astype(np.int32), fill(r, room), np.int32(len(i)))


@dataclasses.dataclass(frozen=True)
class Indexed:
    """Rows that are read by number when they are needed: sets too large for memory, in the same order as resident ones.

    Attributes:
        read: `index [n] -> {name: [n, ...]}`; with `"real"` among them, rows of 0 count nowhere.
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
        read = lambda rows: self.read(index[rows])  # noqa: E731
        return dataclasses.replace(self, read=read, size=len(index), label=label, names=taken(self.names, index))

    def placed(self, put: Callable[[Tree], Tree]) -> "Indexed":
        """Return itself: nothing stays on the device."""
        del put
        return self

    def chunk(self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, share: Share = ALL) -> StackedChunk:
        """Return training batches `start` to `start + count`."""
        index, real = padded(train_rows(self.seed, self.size, batch_size, start, count), multiple)
        index, real = columns(index, share), None if real is None else columns(real, share)
        return stack(self.read(index.reshape(-1)), index, real, capacity)

    def once(self, batch_size: int, multiple: int = 1, share: Share = ALL) -> Iterator[StackedChunk]:
        """Give every row once, in order."""
        index, real = once_rows(self.size, batch_size, multiple)
        room = _room(self.capacity, index)
        for k in range(0, len(index), room):
            i, r = columns(index[k : k + room], share), columns(real[k : k + room], share)
            yield stack(self.read(i.reshape(-1)), i, r, room)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Rows that are checked as they are read, on the host; in every other way the data set itself.

    Attributes:
        data: `Indexed`, a stream, or a data set of one's own.
        check: `rows -> None`, given the rows `[N, ...]` of a chunk; raises `InputError`.

    """

    data: Any
    check: Callable[[Batch], None]

    def __getattr__(self, name: str) -> Any:
        """Answer as the data set does."""
        if name.startswith("__"):  # copies and pickles ask before there are data
            raise AttributeError(name)
        return getattr(self.data, name)

    def placed(self, put: Callable[[Tree], Tree]) -> "Checked":
        """Move what can live on the device to the device, once."""
        return dataclasses.replace(self, data=self.data.placed(put))

    def chunk(self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, share: Share = ALL) -> Chunk:
        """Return training batches `start` to `start + count`, once their rows have passed."""
        return self._passed(self.data.chunk(batch_size, start, count, capacity, multiple, share))

    def once(self, batch_size: int, multiple: int = 1, share: Share = ALL) -> Iterator[Chunk]:
        """Give every row once, in order, once the rows of its chunk have passed."""
        return map(self._passed, self.data.once(batch_size, multiple, share))

    def _passed(self, chunk: Chunk) -> Chunk:
        if isinstance(chunk, StackedChunk):  # what a chunk has room for beyond its count is no rows
            self.check(jax.tree.map(lambda x: x[: int(chunk.count)].reshape(-1, *x.shape[2:]), dict(chunk.batches)))
        return chunk


def checked(data: Any, check: Callable[[Batch], None]) -> Any:
    """Let a task check the rows that it is to learn or to be measured on: those in memory now, others as they are read.

    Args:
        data: a data set.
        check: as `Task.check`.

    Returns:
        The data set: itself if its rows are in memory.

    Raises:
        InputError: what `check` refuses.

    """
    if isinstance(data, Resident):
        check(data.arrays)
        return data
    if getattr(data, "label", None) is not None:
        check({"label": data.label})
    return Checked(data, check)


def labelled(image: np.ndarray, label: np.ndarray, classes: tuple[str, ...], name: str) -> Resident:
    """Check images and labels against each other and hold them, gray ones as `[N, H, W, 1]`.

    Raises:
        InputError: shapes, dtypes or labels that cannot be; `name` says whose.

    """
    if image.ndim == 3:
        image = image[..., None]
    check_layout(image.shape, f"{name}: ")
    if image.ndim != 4 or image.size == 0:
        raise InputError(f"{name}: images of shape {image.shape}; must be [N, H, W] or [N, H, W, C] with at least one row and pixel")
    if np.issubdtype(image.dtype, np.floating):
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise InputError(f"{name}: float images from {image.min()} to {image.max()}; floats must be in 0..1 (uint8 in 0..255)")
        image = image.astype(np.float32)
    elif image.dtype != np.uint8:
        raise InputError(f"{name}: images of dtype {image.dtype}; must be uint8 0..255 or float 0..1")
    label = np.asarray(label)
    if not np.issubdtype(label.dtype, np.integer) or label.shape != (len(image),):
        raise InputError(
            f"{name}: labels of dtype {label.dtype} and shape {label.shape}; must be integers of shape ({len(image)},), one an image"
        )
    if label.min() < 0 or label.max() >= len(classes):
        bad = int(label.min() if label.min() < 0 else label.max())
        raise InputError(f"{name}: label {bad} is out of range; with {len(classes)} classes labels are 0 to {len(classes) - 1}")
    return Resident({"image": image, "label": label.astype(np.int32)}, classes)


def stratified(label: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a seeded split that keeps the share of every class: `(rest, cut)`, in ascending order.

    A class keeps at least one row in the rest. Where classes are too small for their share, larger ones give more.

    Args:
        label: int `[N]`.
        fraction: share of the rows to cut, in [0, 1).
        seed: the same seed, the same split.

    Raises:
        InputError: `fraction` outside its range.

    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction={fraction}: must be at least 0 and below 1")
    label, rng = np.asarray(label), np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(label == c)) for c in np.unique(label)]
    most = np.array([len(g) - 1 for g in groups], int)
    wanted = fraction * (most + 1)
    counts = np.minimum(np.floor(wanted).astype(int), most)
    # the rows still missing come from the classes that lost most to rounding, ties by lot: every class that can is within one row
    lost = np.lexsort([rng.random(len(groups)), (counts - wanted).round(9)])
    missing = min(round(fraction * len(label)), most.sum()) - counts.sum()
    while missing > 0:
        able = lost[counts[lost] < most[lost]][:missing]
        counts[able] += 1
        missing -= len(able)
    cut = np.sort(np.concatenate([label[:0].astype(int), *(g[:n] for g, n in zip(groups, counts, strict=True))]))
    return np.setdiff1d(np.arange(len(label)), cut), cut


def cut(data: Any, label: np.ndarray, fraction: float, seed: int, name: str = "validation_fraction") -> tuple[Any, Any, np.ndarray]:
    """Take a stratified share from a data set: what is left, the share, and the labels of what is left.

    Raises:
        InputError: `fraction` leaves one of the two without rows; `name` is its name in the message.

    """
    check_fraction(name, fraction, len(label))
    rest, share = stratified(label, fraction, seed)
    if fraction and not len(share):
        raise InputError(
            f"{name}={fraction}: cuts no row, because each class has but one and keeps it; give more rows, or parts of your own"
        )
    return data.take(rest), data.take(share), label[rest]


def check_fraction(name: str, fraction: float, rows: int) -> None:
    """Refuse a share that is none, or that leaves one of the two parts without rows; 0 is no share at all."""
    if not 0 <= fraction < 1:
        raise InputError(f"{name}={fraction}: must be at least 0 and below 1")
    if fraction and not 0 < round(fraction * rows) < rows:
        part, fix = ("no row", "more") if round(fraction * rows) == 0 else ("every row", "less")
        raise InputError(f"{name}={fraction}: cuts {part} out of {rows}; give {fix}")


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
