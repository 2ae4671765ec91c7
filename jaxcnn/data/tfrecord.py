"""TFDS sets in `tfrecord` format, streamed by tf.data; the order of the rows depends only on the seed and the epoch."""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.core.types import Batch, InputError, reason
from jaxcnn.data.core import OnBad, Resident
from jaxcnn.data.encoded import check_label, decode, parse
from jaxcnn.data.order import ALL, Shard, fill
from jaxcnn.data.shards import joined, named, ranges, tf_records
from jaxcnn.data.splitting import check_fraction
from jaxcnn.parallel.compile import StackedChunk

BUFFER = 10_000  # encoded records in the shuffle buffer
FILE_BUFFER = 8 * 2**20  # bytes read ahead from each file
SMALL = 2**23  # most pixels of an image that TensorFlow decodes, several at a time
READ_BYTES = 2**28  # most bytes of rows that are decoded at once


def tensorflow() -> Any:
    """Import TensorFlow and hide the GPUs from it, because JAX uses their memory."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # the user's own code has initialised TensorFlow already
        pass
    return tf


def _private(**default: Any) -> Any:
    return dataclasses.field(init=False, repr=False, compare=False, **default)


@dataclasses.dataclass
class Stream:
    """Rows of a split, read in sequence; memory holds a shuffle buffer of encoded records and a few batches.

    Chunks that follow or overlap the last chunk are cheap. A chunk elsewhere, as after a resume, skips encoded records
    from the start of the epoch.

    Attributes:
        builder: a prepared TFDS builder.
        split: the split, such as `"train"` or `"train[100:]"`.
        shape: shape of every image, `(H, W, C)`.
        classes: class names in order of label.
        seed: seed of the order in which training reads the rows.
        capacity: most batches in one chunk.
        on_bad: called with a message and a count for each unreadable record, which becomes a row with `row_mask = 0`;
            None to raise.
        resized: whether images of other sizes are resized; otherwise they count as unreadable.

    """

    builder: Any
    split: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    seed: int = 0
    capacity: int = 8
    on_bad: OnBad | None = None
    resized: bool = False
    # an iterator of training batches, the arguments it was made for, and the last chunk with the number of its start
    _rows: Iterator[dict[str, np.ndarray]] | None = _private(default=None)
    _key: Any = _private(default=None)
    _start: int = _private(default=0)
    _last: list[dict[str, np.ndarray]] = _private(default_factory=list)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.builder.info.splits[self.split].num_examples

    @property
    def _together(self) -> int:
        return max(1, min(1024, READ_BYTES // int(np.prod(self.shape))))

    def divide(self, fraction: float) -> tuple["Stream", "Stream"]:
        """Split off the first rows for validation, `(rest, first)`; the split is not stratified."""
        check_fraction("validation_fraction", fraction, self.size)
        base = self.split.split("+")[0].partition("[")[0]
        name, parts = ranges(self.split, self.builder.info.splits[base].num_examples)
        first, rest, wanted = [], [], round(fraction * self.size)
        for a, b in parts:
            middle = min(a + wanted, b)
            wanted -= middle - a
            first, rest = first + [(a, middle)] * (a < middle), rest + [(middle, b)] * (middle < b)
        return dataclasses.replace(self, split=joined(name, rest)), dataclasses.replace(self, split=joined(name, first))

    def example(self) -> Batch:
        """Return the first row."""
        return next(self._batches(None, 0, 1))

    def take(self, index: np.ndarray) -> Resident:
        """Read the rows with these numbers into memory; the split is read up to the last of them."""
        index = np.asarray(index)
        place, parts, at = np.argsort(index, kind="stable"), [], 0
        for part in self._batches(None, 0, self._together):
            here = index[place[(index[place] >= at) & (index[place] < at + len(part["label"]))]] - at
            parts.append({name: x[here] for name, x in part.items()})
            at += len(part["label"])
            if at > index.max(initial=-1):
                break
        back = np.argsort(place)
        return Resident(
            {name: np.concatenate([p[name] for p in parts])[back] for name in parts[0]}, self.classes, self.seed
        )

    def put(self, move: Callable[[Any], Any]) -> "Stream":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def everything(self) -> dict[str, np.ndarray]:
        """Read all rows into memory."""
        parts = list(self._batches(None, 0, self._together))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> StackedChunk:
        """Return training batches `start` to `start + count`, see `Data.chunk`; following chunks are cheap."""
        again = self._last[start - self._start :] if start >= self._start else []
        key = (batch_size, self.seed, multiple, shard)
        if self._rows is None or self._key != key or not self._start <= start <= self._start + len(self._last):
            # the iterator refers to a copy: a reference cycle would delay its end until garbage collection
            self._rows, again = dataclasses.replace(self)._endless(batch_size, start, multiple, shard), []
        self._key = None  # if reading fails, the next call makes a new iterator
        self._last = again + list(itertools.islice(self._rows, max(count - len(again), 0)))
        self._key, self._start = key, start
        return _chunk(self._last[:count], capacity)

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Yield every row once, in order, see `Data.once`."""
        batch_size = max(min(batch_size, self.size), 1)
        steps = -(-self.size // batch_size)
        room, (width, mine) = max(min(self.capacity, steps), 1), _columns(batch_size, multiple, shard)
        rows = self._batches(None, 0, mine.stop - mine.start, (0, batch_size, mine))
        for k in range(0, steps, room):
            batches = [_real(next(rows, None) or self._none()) for _ in range(min(room, steps - k))]
            yield _chunk([{name: fill(x, width) for name, x in b.items()} for b in batches], room)

    def _endless(self, batch_size: int, start: int, multiple: int, shard: Shard) -> Iterator[dict[str, np.ndarray]]:
        """Yield the shard's rows of batches from `start` on; a batch may have rows of two epochs."""
        epoch, skip = divmod(start * batch_size, self.size)
        width, mine = _columns(batch_size, multiple, shard)
        whole, n, rest = (_real if batch_size % multiple else dict), mine.stop - mine.start, self._none()
        while not n:  # the shard has only padding
            yield {name: fill(x, width) for name, x in whole(rest).items()}
        for e in itertools.count(epoch):
            first = skip if e == epoch else 0
            for part in self._batches(e, first, n, (e * self.size + first, batch_size, mine)):
                rest = (
                    {name: np.concatenate([rest[name], x]) for name, x in part.items()} if len(rest["label"]) else part
                )
                while len(rest["label"]) >= n:
                    yield {name: fill(x, width) for name, x in whole({name: x[:n] for name, x in rest.items()}).items()}
                    rest = {name: x[n:] for name, x in rest.items()}

    def _none(self) -> dict[str, np.ndarray]:
        """Return a batch with no rows."""
        rows = {"image": np.zeros((0, *self.shape), np.uint8), "label": np.zeros(0, np.int32)}
        return rows if self.on_bad is None else _real(rows)

    def _batches(
        self, epoch: int | None, skip: int, batch_size: int, mine: Any = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of an epoch in its order, or in the stored order for None; the last batch may be short."""
        if not self.size or not batch_size:
            return
        # errors of Python functions within TensorFlow, which would print a traceback if they raised
        errors: list[InputError] = []
        try:
            for rows in self._records(epoch, skip, mine, errors).batch(batch_size).prefetch(2).as_numpy_iterator():
                if errors:
                    raise errors[0]
                check_label(rows["label"], len(self.classes))
                yield rows | {"label": rows["label"].astype(np.int32)}
            if errors:
                raise errors[0]
        except Exception as error:  # for a truncated or missing shard TensorFlow raises errors of its own types
            why = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", reason(error, 400))
            where = f"{self.builder.data_path}: split {self.split} is not readable"
            raise InputError(
                f"{where} ({why}){named(self.builder, self.split)}; delete the folder and prepare it again"
            ) from error

    def _records(
        self, epoch: int | None, skip: int, mine: tuple[int, int, slice] | None, errors: list[InputError]
    ) -> Any:
        """Return decoded rows as a tf.data.Dataset; with `mine`, only those in some columns of the batches."""
        tf = tensorflow()
        seed = None if epoch is None else int(np.random.default_rng([self.seed, epoch]).integers(2**31))
        records = self._encoded(seed, errors)
        if seed is not None:
            records = records.shuffle(BUFFER, seed=seed, reshuffle_each_iteration=False)
        records = records.skip(skip)
        first, batch_size, columns = mine or (0, 1, slice(0, 1))
        if columns != slice(0, batch_size):  # before decoding, which is expensive

            def at(i):
                return (first + i) % batch_size

            records = records.enumerate().filter(lambda i, _: (at(i) >= columns.start) & (at(i) < columns.stop))
            records = records.map(lambda _, row: row)
        if self.on_bad is None:
            decoded = _decoder(self.shape, self.resized, errors)
        else:
            where = f"{self.builder.data_path}: a record of split {self.split}"
            decoded = _attempt(self.shape, self.resized, len(self.classes), self.on_bad, where)
        # AutoGraph has nothing to rewrite here, and would raise a warning on Python 3.13
        decoded = tf.autograph.experimental.do_not_convert(decoded)
        return records.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _encoded(self, seed: int | None, errors: list[InputError]) -> Any:
        """Return serialised examples in TFDS's order: interleaved shuffled files with a seed, or file after file."""
        tf, info = tensorflow(), self.builder.info
        parts = info.splits[self.split].file_instructions
        mixed = seed is not None and not info.disable_shuffling  # TFDS never shuffles an ordered set
        names = ("skip", "take", "examples_in_shard")
        at = {name: np.array([getattr(part, name) for part in parts], np.int64) for name in names}
        files = tf.data.Dataset.from_tensor_slices({"path": [os.fspath(part.filename) for part in parts], **at})
        if mixed:
            files = files.shuffle(len(parts), seed=seed)

        def checked(path: bytes, rows: int, take: int) -> int | np.int64:
            if tf_records(os.fsdecode(path)) == rows:
                return take
            shard = os.path.basename(os.fsdecode(path))
            errors.append(InputError(f"{shard} does not hold the {rows} records that dataset_info.json states"))
            return np.int64(0)

        def read(part: dict[str, Any]) -> Any:
            take = tf.numpy_function(checked, [part["path"], part["examples_in_shard"], part["take"]], tf.int64)
            return tf.data.TFRecordDataset(part["path"], buffer_size=FILE_BUFFER).skip(part["skip"]).take(take)

        read = tf.autograph.experimental.do_not_convert(read)
        length = 16 if mixed else 1
        return files.interleave(
            read, cycle_length=length, block_length=16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


# functions for TensorFlow must not refer to a stream: TensorFlow keeps them until garbage collection, and a stream has
# an iterator


def _decoder(shape: tuple[int, ...], resized: bool, errors: list[InputError]) -> Callable[[Any], dict[str, Any]]:
    """Return a decoder of serialised examples in TensorFlow; large images and rare formats are decoded in Python."""
    tf, (height, width, channels) = tensorflow(), shape
    wanted = {"image": tf.io.FixedLenFeature((), tf.string), "label": tf.io.FixedLenFeature((), tf.int64)}

    def quick(encoded: Any) -> Any:
        image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
        image.set_shape((None, None, channels))
        if not resized:
            return image
        same = tf.reduce_all(tf.shape(image)[:2] == [height, width])

        def resize():
            return tf.cast(tf.round(tf.image.resize(image, (height, width), antialias=True)), tf.uint8)

        return tf.cond(same, lambda: image, resize)

    def python(encoded: bytes) -> np.ndarray:
        try:
            return decode(encoded, shape, resized)
        except Exception as error:
            errors.append(InputError(f"a record ({_name(encoded)}): {reason(error)}"))
            return np.zeros(shape, np.uint8)

    def decoded(record: Any) -> dict[str, Any]:
        row = tf.io.parse_single_example(record, wanted)

        def slow():
            return tf.numpy_function(python, [row["image"]], tf.uint8)

        image = tf.cond(_is_small(tf, row["image"]), lambda: quick(row["image"]), slow)
        return {"image": tf.ensure_shape(image, shape), "label": row["label"]}

    return decoded


def _attempt(
    shape: tuple[int, ...], resized: bool, classes: int, on_bad: OnBad, where: str
) -> Callable[[Any], dict[str, Any]]:
    """Return a decoder of serialised examples in Python that calls `on_bad` for an unreadable one."""
    tf = tensorflow()

    def python(record: bytes) -> tuple[np.ndarray, np.int64, np.float32]:
        encoded = record
        try:
            encoded, label = parse(record)
            check_label(np.array([label]), classes)
            return decode(encoded, shape, resized), np.int64(label), np.float32(1)
        except Exception as error:  # for a damaged image the decoder raises errors of many types
            on_bad(f"{where} ({_name(encoded)}) is not a readable image ({reason(error)})", 1)
            return np.zeros(shape, np.uint8), np.int64(0), np.float32(0)

    def decoded(record: Any) -> dict[str, Any]:
        image, label, row_mask = tf.numpy_function(python, [record], [tf.uint8, tf.int64, tf.float32])
        return {
            "image": tf.ensure_shape(image, shape),
            "label": tf.ensure_shape(label, ()),
            "row_mask": tf.ensure_shape(row_mask, ()),
        }

    return decoded


def _is_small(tf: Any, encoded: Any) -> Any:
    """Whether an image is a PNG or JPEG whose header declares few pixels: TensorFlow allocates the declared size."""
    head = tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=24), tf.float64)
    jpeg = tf.reduce_all(head[:2] == [0xFF, 0xD8])
    sides = tf.linalg.matvec(tf.reshape(head[16:24], (2, 4)), tf.constant([2**24, 2**16, 2**8, 1], tf.float64))
    png = tf.reduce_all(head[:8] == list(b"\x89PNG\r\n\x1a\n"))
    sides = tf.cond(jpeg, lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.float64), lambda: sides)
    return (jpeg | png) & (tf.reduce_prod(sides) <= SMALL)


def _chunk(batches: list[dict[str, np.ndarray]], room: int) -> StackedChunk:
    """Stack batches to a chunk with room for `room` of them."""
    stacked = {name: fill(np.stack([b[name] for b in batches]), room) for name in batches[0]}
    return StackedChunk(stacked, np.int32(len(batches)))


def _name(data: bytes) -> str:
    return f"{len(data)} bytes, SHA-1 {hashlib.sha1(data).hexdigest()[:12]}"


def _columns(batch_size: int, multiple: int, shard: Shard) -> tuple[int, slice]:
    """Return the width of a shard of a padded batch, and the slice of the batch's rows in it."""
    width = -(-batch_size // multiple) * multiple // shard[1]
    return width, slice(min(shard[0] * width, batch_size), min((shard[0] + 1) * width, batch_size))


def _real(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"row_mask": np.ones(len(batch["label"]), np.float32)} | batch
