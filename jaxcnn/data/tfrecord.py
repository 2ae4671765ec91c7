"""Sets too large for memory in TFDS's `tfrecord` format, streamed by tf.data; the order is a function of (seed, epoch)."""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.core.types import Batch, InputError, reason
from jaxcnn.data.core import ALL, OnBad, Resident, Shard, fill
from jaxcnn.data.encoded import check_label, decode, parse
from jaxcnn.data.shards import joined, named, ranges, tf_records
from jaxcnn.data.splitting import check_fraction
from jaxcnn.parallel.compile import StackedChunk

BUFFER = 10_000  # records, still encoded, among which the next one is drawn
FILE_BUFFER = 8 * 2**20  # bytes read ahead of each file
SMALL = 2**23  # pixels of an image that TensorFlow decodes, several at a time
READ_BYTES = 2**28  # of the rows that are decoded together to be kept


def tensorflow() -> Any:
    """Import TensorFlow for reading only: JAX owns the accelerator's memory, so it may not see the GPUs."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:  # the caller's own TensorFlow has them already
        pass
    return tf


@dataclasses.dataclass
class Stream:
    """Rows of one split, read in sequence; memory holds a shuffle buffer of encoded records and a few batches.

    Reading on, or again from within the last chunk, is cheap; starting elsewhere (a resume) skips encoded records from the
    epoch's beginning.

    Attributes:
        builder: a prepared TFDS builder.
        split: such as `"train"` or `"train[100:]"`.
        shape: `(H, W, C)` of every image.
        classes: names in order of label.
        seed: of the order in which training reads the rows.
        capacity: batches in one chunk at most.
        on_bad: told of records that hold no readable image, which become rows of `row_mask = 0`; by default they raise.
        resized: whether images of other sizes are resized; otherwise they count as not readable.

    """

    builder: Any
    split: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    seed: int = 0
    capacity: int = 8
    on_bad: OnBad | None = None
    resized: bool = False
    _rows: Iterator[dict[str, np.ndarray]] | None = dataclasses.field(
        default=None, init=False, repr=False, compare=False
    )
    _key: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)  # what `_rows` is an order of
    _start: int = dataclasses.field(
        default=0, init=False, repr=False, compare=False
    )  # number of the first batch in `_last`
    _last: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.builder.info.splits[self.split].num_examples

    @property
    def _together(self) -> int:
        return max(1, min(1024, READ_BYTES // int(np.prod(self.shape))))

    def divide(self, fraction: float) -> tuple["Stream", "Stream"]:
        """Cut off the first rows, for validation: `(rest, shard)`; unlike the splits of resident sets it is not stratified."""
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
        """Hold some of the rows in memory; reads up to the last of them."""
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
        """Return training batches `start` to `start + count`; reads on where the last chunk ended, if that is there."""
        again = self._last[start - self._start :] if start >= self._start else []
        key = (batch_size, self.seed, multiple, shard)
        if self._rows is None or self._key != key or not self._start <= start <= self._start + len(self._last):
            # of a copy, so that the iterator ends when its stream is dropped: with a cycle it would end wherever garbage is collected
            self._rows, again = dataclasses.replace(self)._endless(batch_size, start, multiple, shard), []
        self._key = None  # should reading fail, the next call starts anew
        self._last = again + list(itertools.islice(self._rows, max(count - len(again), 0)))
        self._key, self._start = key, start
        batches = self._last[:count]
        return StackedChunk(
            {name: fill(np.stack([b[name] for b in batches]), capacity) for name in batches[0]}, np.int32(count)
        )

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[StackedChunk]:
        """Give every row once, in order."""
        batch_size = max(min(batch_size, self.size), 1)
        steps = -(-self.size // batch_size)
        room, (width, mine) = max(min(self.capacity, steps), 1), _columns(batch_size, multiple, shard)
        rows = self._batches(None, 0, mine.stop - mine.start, (0, batch_size, mine))
        for k in range(0, steps, room):
            batches = [_real(next(rows, None) or self._none()) for _ in range(min(room, steps - k))]
            padded = [{name: fill(x, width) for name, x in b.items()} for b in batches]
            yield StackedChunk(
                {name: fill(np.stack([b[name] for b in padded]), room) for name in padded[0]}, np.int32(len(batches))
            )

    def _endless(self, batch_size: int, start: int, multiple: int, shard: Shard) -> Iterator[dict[str, np.ndarray]]:
        """This share of the batches from `start` on; an epoch's last rows and the next one's first share a batch."""
        epoch, skip = divmod(start * batch_size, self.size)
        width, mine = _columns(batch_size, multiple, shard)
        whole, n, rest = (_real if batch_size % multiple else dict), mine.stop - mine.start, self._none()
        while not n:  # all padding
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
        """Return no rows."""
        rows = {"image": np.zeros((0, *self.shape), np.uint8), "label": np.zeros(0, np.int32)}
        return rows if self.on_bad is None else _real(rows)

    def _batches(
        self, epoch: int | None, skip: int, batch_size: int, mine: Any = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Rows of one epoch in its own order, or in the stored order for `epoch=None`; the last batch may be short."""
        if not self.size or not batch_size:
            return
        told: list[
            InputError
        ] = []  # by Python functions within TensorFlow, which would print the traceback if they raised
        try:
            for rows in self._records(epoch, skip, mine, told).batch(batch_size).prefetch(2).as_numpy_iterator():
                if told:
                    raise told[0]
                check_label(rows["label"], len(self.classes))
                yield rows | {"label": rows["label"].astype(np.int32)}
            if told:
                raise told[0]
        except Exception as error:  # a cut or missing shard raises TensorFlow's own kinds
            why = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", reason(error, 400))
            where = f"{self.builder.data_path}: split {self.split} is not readable"
            raise InputError(
                f"{where} ({why}){named(self.builder, self.split)}; delete the folder and prepare it again"
            ) from error

    def _records(
        self, epoch: int | None, skip: int, mine: tuple[int, int, slice] | None, told: list[InputError]
    ) -> Any:
        """Decoded rows as a tf.data.Dataset, not yet in batches; with `mine`, only those in some columns of the batches."""
        tf = tensorflow()
        seed = None if epoch is None else int(np.random.default_rng([self.seed, epoch]).integers(2**31))
        records = self._encoded(seed, told)
        if seed is not None:
            records = records.shuffle(BUFFER, seed=seed, reshuffle_each_iteration=False)
        records = records.skip(skip)
        first, batch_size, columns = mine or (0, 1, slice(0, 1))
        if columns != slice(0, batch_size):  # before decoding, which is what costs

            def at(i):
                return (first + i) % batch_size

            records = (
                records.enumerate()
                .filter(lambda i, _: (at(i) >= columns.start) & (at(i) < columns.stop))
                .map(lambda _, row: row)
            )
        if self.on_bad is None:
            decoded = _decoder(self.shape, self.resized, told)
        else:
            where = f"{self.builder.data_path}: a record of split {self.split}"
            decoded = _attempt(self.shape, self.resized, len(self.classes), self.on_bad, where)
        # AutoGraph rewrites Python code, which Python 3.13 makes warn; there is nothing in it to rewrite
        decoded = tf.autograph.experimental.do_not_convert(decoded)
        return records.map(decoded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _encoded(self, seed: int | None, told: list[InputError]) -> Any:
        """Serialised examples, in the order in which TFDS would read them: its files mixed for a seed, else one after another."""
        tf, info = tensorflow(), self.builder.info
        parts = info.splits[self.split].file_instructions
        mixed = seed is not None and not info.disable_shuffling  # an ordered set stays so
        at = {
            name: np.array([getattr(part, name) for part in parts], np.int64)
            for name in ("skip", "take", "examples_in_shard")
        }
        files = tf.data.Dataset.from_tensor_slices({"path": [os.fspath(part.filename) for part in parts], **at})
        if mixed:
            files = files.shuffle(len(parts), seed=seed)

        def checked(path: bytes, rows: int, take: int) -> int | np.int64:
            if tf_records(os.fsdecode(path)) == rows:
                return take
            told.append(
                InputError(
                    f"{os.path.basename(os.fsdecode(path))} does not hold the {rows} records that dataset_info.json states"
                )
            )
            return np.int64(0)

        def read(part: dict[str, Any]) -> Any:
            take = tf.numpy_function(checked, [part["path"], part["examples_in_shard"], part["take"]], tf.int64)
            return tf.data.TFRecordDataset(part["path"], buffer_size=FILE_BUFFER).skip(part["skip"]).take(take)

        read = tf.autograph.experimental.do_not_convert(read)
        length = 16 if mixed else 1
        return files.interleave(
            read, cycle_length=length, block_length=16, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


# what TensorFlow is given may not refer to a stream: it is kept until garbage is collected, and the stream holds an iterator


def _decoder(shape: tuple[int, ...], resized: bool, told: list[InputError]) -> Callable[[Any], dict[str, Any]]:
    """Return what decodes a serialised example within TensorFlow, or where its image is large or of a rare format within Python."""
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
            told.append(InputError(f"a record ({_name(encoded)}): {reason(error)}"))
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
    """Return what decodes a serialised example within Python, or tells that it cannot be."""
    tf = tensorflow()

    def python(record: bytes) -> tuple[np.ndarray, np.int64, np.float32]:
        encoded = record
        try:
            encoded, label = parse(record)
            check_label(np.array([label]), classes)
            return decode(encoded, shape, resized), np.int64(label), np.float32(1)
        except Exception as error:  # a damaged image raises whatever its decoder stumbles over
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
    """Whether an image is PNG or JPEG and its head declares few pixels: TensorFlow reserves what a head declares."""
    head = tf.cast(tf.io.decode_raw(encoded, tf.uint8, fixed_length=24), tf.float64)
    jpeg = tf.reduce_all(head[:2] == [0xFF, 0xD8])
    sides = tf.linalg.matvec(tf.reshape(head[16:24], (2, 4)), tf.constant([2**24, 2**16, 2**8, 1], tf.float64))
    png = tf.reduce_all(head[:8] == list(b"\x89PNG\r\n\x1a\n"))
    sides = tf.cond(jpeg, lambda: tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.float64), lambda: sides)
    return (jpeg | png) & (tf.reduce_prod(sides) <= SMALL)


def _name(data: bytes) -> str:
    return f"{len(data)} bytes, SHA-1 {hashlib.sha1(data).hexdigest()[:12]}"


def _columns(batch_size: int, multiple: int, shard: Shard) -> tuple[int, slice]:
    """Width of one share of a padded batch, and which of the batch's rows are in it."""
    width = -(-batch_size // multiple) * multiple // shard[1]
    return width, slice(min(shard[0] * width, batch_size), min((shard[0] + 1) * width, batch_size))


def _real(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"row_mask": np.ones(len(batch["label"]), np.float32)} | batch
