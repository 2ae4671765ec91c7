"""Sets too large for memory in TFDS's `tfrecord` format, streamed by tf.data; the order is a function of (seed, epoch)."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxcnn.data.core import _fill
from jaxcnn.parallel import Stack
from jaxcnn.types import Batch

BUFFER = 10_000  # records, still encoded, among which the next one is drawn


@dataclasses.dataclass
class Stream:
    """Rows of one split, read in sequence; memory holds a shuffle buffer of encoded records and a few batches.

    Reading on is cheap; starting elsewhere (a resume) skips encoded records from the epoch's beginning.

    Attributes:
        builder: a prepared TFDS builder.
        split: such as `"train[10%:]"`.
        shape: `(H, W, C)` of every image, which is resized to it.
        classes: names in order of label.
        seed: of the order in which training reads the rows.
        capacity: batches in one chunk at most.

    """

    builder: Any
    split: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    seed: int = 0
    capacity: int = 8
    _place: tuple[int, int] | None = dataclasses.field(default=None, repr=False, compare=False)
    _rows: Iterator[dict[str, np.ndarray]] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.builder.info.splits[self.split].num_examples

    def divide(self, fraction: float) -> tuple["Stream", "Stream"]:
        """Cut off the first rows, for validation: `(rest, cut)`; unlike the splits of resident sets it is not stratified."""
        at = f"{round(100 * fraction)}%"
        base = self.split.split("[")[0]
        fresh = lambda split: Stream(self.builder, split, self.shape, self.classes, self.seed, self.capacity)  # noqa: E731
        return fresh(f"{base}[{at}:]"), fresh(f"{base}[:{at}]")

    def example(self) -> Batch:
        """Return the first row."""
        return next(self._batches(None, 0, 1))

    def placed(self, put: Callable[[Any], Any]) -> "Stream":
        """Return itself: nothing stays on the device."""
        del put
        return self

    def everything(self) -> dict[str, np.ndarray]:
        """Read all rows into memory."""
        parts = list(self._batches(None, 0, 1024))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def chunk(self, batch_size: int, start: int, count: int, capacity: int) -> Stack:
        """Return training batches `start` to `start + count`; reads on where the last chunk ended, if that is there."""
        if self._place != (batch_size, start):
            self._rows = self._endless(batch_size, start)
        batches = list(itertools.islice(self._rows, count))
        self._place = (batch_size, start + count)
        return Stack({name: _fill(np.stack([b[name] for b in batches]), capacity) for name in batches[0]}, np.int32(count))

    def once(self, batch_size: int, multiple: int = 1) -> Iterator[Stack]:
        """Give every row once, in order."""
        batch_size = min(batch_size, self.size)
        width = -(-batch_size // multiple) * multiple
        room = min(self.capacity, -(-self.size // batch_size))
        rows = self._batches(None, 0, batch_size)
        while batches := list(itertools.islice(rows, room)):
            real = [(np.arange(width) < len(b["label"])).astype(np.float32) for b in batches]
            padded = [{name: _fill(x, width) for name, x in b.items()} | {"real": r} for b, r in zip(batches, real, strict=True)]
            yield Stack({name: _fill(np.stack([b[name] for b in padded]), room) for name in padded[0]}, np.int32(len(batches)))

    def _endless(self, batch_size: int, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from `start` on; an epoch's last rows and the next one's first share a batch, so each row comes once an epoch."""
        epoch, skip = divmod(start * batch_size, self.size)
        rest: dict[str, np.ndarray] = {}
        for e in itertools.count(epoch):
            for part in self._batches(e, skip if e == epoch else 0, batch_size):
                rest = {name: np.concatenate([rest[name], x]) for name, x in part.items()} if rest else part
                while len(rest["label"]) >= batch_size:
                    yield {name: x[:batch_size] for name, x in rest.items()}
                    rest = {name: x[batch_size:] for name, x in rest.items()}

    def _batches(self, epoch: int | None, skip: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        """Rows of one epoch in its own order, or in the stored order for `epoch=None`; the last batch may be short."""
        import tensorflow as tf
        import tensorflow_datasets as library

        tf.config.set_visible_devices([], "GPU")  # TensorFlow only reads here; JAX owns the accelerator's memory
        draw = epoch is not None
        seed = None if epoch is None else int(np.random.default_rng([self.seed, epoch]).integers(2**31))
        config = library.ReadConfig(shuffle_seed=seed, interleave_cycle_length=16 if draw else 1, try_autocache=False)
        decoders = {"image": library.decode.SkipDecoding()}
        records = self.builder.as_dataset(split=self.split, shuffle_files=draw, read_config=config, decoders=decoders)
        if draw:
            records = records.shuffle(BUFFER, seed=seed, reshuffle_each_iteration=False)
        height, width, channels = self.shape

        def decode(row: dict[str, Any]) -> dict[str, Any]:
            image = tf.io.decode_image(row["image"], channels=channels, expand_animations=False)
            image.set_shape((None, None, channels))
            if tf.reduce_any(tf.shape(image)[:2] != [height, width]):
                image = tf.cast(tf.round(tf.image.resize(image, (height, width), antialias=True)), tf.uint8)
            return {"image": tf.ensure_shape(image, self.shape), "label": tf.cast(row["label"], tf.int32)}

        rows = records.skip(skip).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        yield from rows.batch(batch_size).prefetch(2).as_numpy_iterator()
