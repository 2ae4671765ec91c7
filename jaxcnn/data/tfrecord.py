"""Sets too large for memory in TFDS's `tfrecord` format, streamed by tf.data; the order is a function of (seed, epoch)."""

import dataclasses
import hashlib
import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.data.core import ALL, OnBad, Resident, Share, check_fraction, fill
from jaxcnn.data.shards import joined, named, ranges
from jaxcnn.parallel import Stack
from jaxcnn.types import Batch, InputError, reason

BUFFER = 10_000  # records, still encoded, among which the next one is drawn


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
        shape: `(H, W, C)` of every image, which is resized to it.
        classes: names in order of label.
        seed: of the order in which training reads the rows.
        capacity: batches in one chunk at most.
        on_bad: told of records that hold no readable image, which become rows of `real = 0`; by default they raise.

    """

    builder: Any
    split: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    seed: int = 0
    capacity: int = 8
    on_bad: OnBad | None = None
    _rows: Iterator[dict[str, np.ndarray]] | None = dataclasses.field(default=None, init=False, repr=False, compare=False)
    _key: Any = dataclasses.field(default=None, init=False, repr=False, compare=False)  # what `_rows` is an order of
    _start: int = dataclasses.field(default=0, init=False, repr=False, compare=False)  # number of the first batch in `_last`
    _last: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.builder.info.splits[self.split].num_examples

    def divide(self, fraction: float) -> tuple["Stream", "Stream"]:
        """Cut off the first rows, for validation: `(rest, share)`; unlike the splits of resident sets it is not stratified."""
        check_fraction("validation_fraction", fraction, self.size)
        base = self.split.split("+")[0].partition("[")[0]
        name, parts = ranges(self.split, self.builder.info.splits[base].num_examples)
        first, rest, wanted = [], [], round(fraction * self.size)
        for a, b in parts:
            middle = min(a + wanted, b)
            wanted -= middle - a
            first, rest = first + [(a, middle)] * (a < middle), rest + [(middle, b)] * (middle < b)
        return tuple(dataclasses.replace(self, split=joined(name, part)) for part in (rest, first))

    def example(self) -> Batch:
        """Return the first row."""
        return next(self._batches(None, 0, 1))

    def take(self, index: np.ndarray) -> Resident:
        """Hold some of the rows in memory; reads up to the last of them."""
        index = np.asarray(index)
        place, parts, at = np.argsort(index, kind="stable"), [], 0
        for part in self._batches(None, 0, 1024):
            here = index[place[(index[place] >= at) & (index[place] < at + len(part["label"]))]] - at
            parts.append({name: x[here] for name, x in part.items()})
            at += len(part["label"])
            if at > index.max(initial=-1):
                break
        back = np.argsort(place)
        return Resident({name: np.concatenate([p[name] for p in parts])[back] for name in parts[0]}, self.classes, self.seed)

    def placed(self, put: Callable[[Any], Any]) -> "Stream":
        """Return itself: nothing stays on the device."""
        del put
        return self

    def everything(self) -> dict[str, np.ndarray]:
        """Read all rows into memory."""
        parts = list(self._batches(None, 0, 1024))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def chunk(self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, share: Share = ALL) -> Stack:
        """Return training batches `start` to `start + count`; reads on where the last chunk ended, if that is there."""
        again = self._last[start - self._start :] if start >= self._start else []
        key = (batch_size, self.seed, multiple, share)
        if self._key != key or not self._start <= start <= self._start + len(self._last):
            # of a copy, so that the iterator ends when its stream is dropped: with a cycle it would end wherever garbage is collected
            self._rows, again = dataclasses.replace(self)._endless(batch_size, start, multiple, share), []
        self._key = None  # should reading fail, the next call starts anew
        self._last = again + list(itertools.islice(self._rows, max(count - len(again), 0)))
        self._key, self._start = key, start
        batches = self._last[:count]
        return Stack({name: fill(np.stack([b[name] for b in batches]), capacity) for name in batches[0]}, np.int32(count))

    def once(self, batch_size: int, multiple: int = 1, share: Share = ALL) -> Iterator[Stack]:
        """Give every row once, in order."""
        batch_size = max(min(batch_size, self.size), 1)
        steps = -(-self.size // batch_size)
        room, (width, mine) = max(min(self.capacity, steps), 1), _columns(batch_size, multiple, share)
        rows = self._batches(None, 0, mine.stop - mine.start, (0, batch_size, mine))
        for k in range(0, steps, room):
            batches = [_real(next(rows, None) or self._none()) for _ in range(min(room, steps - k))]
            padded = [{name: fill(x, width) for name, x in b.items()} for b in batches]
            yield Stack({name: fill(np.stack([b[name] for b in padded]), room) for name in padded[0]}, np.int32(len(batches)))

    def _endless(self, batch_size: int, start: int, multiple: int, share: Share) -> Iterator[dict[str, np.ndarray]]:
        """This share of the batches from `start` on; an epoch's last rows and the next one's first share a batch."""
        epoch, skip = divmod(start * batch_size, self.size)
        width, mine = _columns(batch_size, multiple, share)
        whole, n, rest = (_real if batch_size % multiple else dict), mine.stop - mine.start, self._none()
        while not n:  # all padding
            yield {name: fill(x, width) for name, x in whole(rest).items()}
        for e in itertools.count(epoch):
            first = skip if e == epoch else 0
            for part in self._batches(e, first, n, (e * self.size + first, batch_size, mine)):
                rest = {name: np.concatenate([rest[name], x]) for name, x in part.items()} if len(rest["label"]) else part
                while len(rest["label"]) >= n:
                    yield {name: fill(x, width) for name, x in whole({name: x[:n] for name, x in rest.items()}).items()}
                    rest = {name: x[n:] for name, x in rest.items()}

    def _attempt(self, encoded: bytes) -> tuple[np.ndarray, np.float32]:
        """Decode an image, or tell that it cannot be."""
        from PIL import Image

        height, width, channels = self.shape
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                image = image.convert("L" if channels == 1 else "RGB")
                image = image if image.size == (width, height) else image.resize((width, height), resample=Image.Resampling.BILINEAR)
                return np.asarray(image, np.uint8).reshape(self.shape), np.float32(1)
        except Exception as error:  # a damaged image raises whatever its decoder stumbles over
            name = f"{len(encoded)} bytes, SHA-1 {hashlib.sha1(encoded).hexdigest()[:12]}"
            self.on_bad(f"{self.builder.data_path}: a record of split {self.split} ({name}) is not a readable image ({reason(error)})", 1)
            return np.zeros(self.shape, np.uint8), np.float32(0)

    def _none(self) -> dict[str, np.ndarray]:
        """Return no rows."""
        rows = {"image": np.zeros((0, *self.shape), np.uint8), "label": np.zeros(0, np.int32)}
        return rows if self.on_bad is None else _real(rows)

    def _batches(self, epoch: int | None, skip: int, batch_size: int, mine: Any = None) -> Iterator[dict[str, np.ndarray]]:
        """Rows of one epoch in its own order, or in the stored order for `epoch=None`; the last batch may be short."""
        if not self.size or not batch_size:
            return
        try:
            yield from self._records(epoch, skip, mine).batch(batch_size).prefetch(2).as_numpy_iterator()
        except Exception as error:  # a cut or missing shard raises TensorFlow's own kinds
            why = re.sub(r"\{\{.*?\}\} ?| ?\[Op:.*", "", reason(error, 400))
            where = f"{self.builder.data_path}: split {self.split} is not readable"
            raise InputError(f"{where} ({why}){named(self.builder, self.split)}; delete the folder and prepare it again") from error

    def _records(self, epoch: int | None, skip: int, mine: tuple[int, int, slice] | None = None) -> Any:
        """Decoded rows as a tf.data.Dataset, not yet in batches; with `mine`, only those in some columns of the batches."""
        tf = tensorflow()
        import tensorflow_datasets as library

        draw = epoch is not None
        seed = int(np.random.default_rng([self.seed, epoch]).integers(2**31)) if draw else None
        files = draw and not self.builder.info.disable_shuffling  # TFDS refuses to mix the files of an ordered set
        config = library.ReadConfig(shuffle_seed=seed, interleave_cycle_length=16 if files else 1, try_autocache=False)
        decoders = {"image": library.decode.SkipDecoding()}
        records = self.builder.as_dataset(split=self.split, shuffle_files=files, read_config=config, decoders=decoders)
        if draw:
            records = records.shuffle(BUFFER, seed=seed, reshuffle_each_iteration=False)
        height, width, channels = self.shape

        def decode(row: dict[str, Any]) -> dict[str, Any]:
            image = tf.io.decode_image(row["image"], channels=channels, expand_animations=False)
            image.set_shape((None, None, channels))
            if tf.reduce_any(tf.shape(image)[:2] != [height, width]):
                image = tf.cast(tf.round(tf.image.resize(image, (height, width), antialias=True)), tf.uint8)
            return {"image": tf.ensure_shape(image, self.shape), "label": tf.cast(row["label"], tf.int32)}

        def attempt(row: dict[str, Any]) -> dict[str, Any]:
            image, real = tf.numpy_function(self._attempt, [row["image"]], [tf.uint8, tf.float32])
            return {
                "image": tf.ensure_shape(image, self.shape),
                "label": tf.cast(row["label"], tf.int32),
                "real": tf.ensure_shape(real, ()),
            }

        records = records.skip(skip)
        first, batch_size, columns = mine or (0, 1, slice(0, 1))
        if columns != slice(0, batch_size):  # before decoding, which is what costs
            at = lambda i: (first + i) % batch_size  # noqa: E731
            records = records.enumerate().filter(lambda i, _: (at(i) >= columns.start) & (at(i) < columns.stop)).map(lambda _, row: row)
        return records.map(decode if self.on_bad is None else attempt, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _columns(batch_size: int, multiple: int, share: Share) -> tuple[int, slice]:
    """Width of one share of a padded batch, and which of the batch's rows are in it."""
    width = -(-batch_size // multiple) * multiple // share[1]
    return width, slice(min(share[0] * width, batch_size), min((share[0] + 1) * width, batch_size))


def _real(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"real": np.ones(len(batch["label"]), np.float32)} | batch
