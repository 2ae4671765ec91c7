"""TFDS sets in `array_record` format: rows that are read by number, without TensorFlow."""

import concurrent.futures
import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, reason
from jaxcnn.data.core import Indexed, OnBad
from jaxcnn.data.crops import Training
from jaxcnn.data.encoded import check_label, decode, parse
from jaxcnn.data.reader import Form
from jaxcnn.data.shards import named, refuse_cut
from jaxcnn.data.tfrecord import READ_BYTES

NOISE = ("Variant folder", "OpenCV is not installed")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide advice that TFDS logs about sets that are not prepared; `tfds` prepares them or raises an error."""
    logger, wanted = logging.getLogger("absl"), lambda record: not str(record.msg).startswith(NOISE)
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def records(
    builder: Any, split: str, shape: tuple[int, ...], classes: tuple[str, ...], on_bad: OnBad | None, form: Form,
    drawn: Training | None,
) -> Indexed:  # fmt: skip
    """Return the rows of an `array_record` split as a data set that reads them by number.

    Args:
        builder: a prepared TFDS builder.
        split: the split.
        shape: shape of every image, `(H, W, C)`.
        classes: class names in order of label.
        on_bad: called with a message and a count for each unreadable record, which becomes a row with `row_mask = 0`;
            None to raise.
        form: how images become rows.
        drawn: how rows are read for training; None to read them as for evaluation.

    """
    import tensorflow_datasets as library

    def readable(fn: Callable[[], Any]) -> Any:
        try:
            return fn()
        except Exception as error:  # for a truncated shard the reader raises errors of its own types
            where = f"{builder.data_path}: split {split} is not readable"
            raise InputError(
                f"{where} ({reason(error)}){named(builder, split)}; delete the folder and prepare it again"
            ) from error

    def row(record: bytes, seed: np.ndarray | None) -> tuple[np.ndarray, int]:
        encoded, label = parse(record)
        check_label(np.array([label]), len(classes))
        if drawn and seed is not None:
            return decode(encoded, (*drawn.size, shape[-1]), True, window=drawn.window(seed)), label
        return decode(encoded, shape, form.size is not None, form.resize, form.crop_ratio), label

    def one(tell: OnBad, i: int, seed: Any, record: bytes | None = None) -> tuple[np.ndarray, int] | None:
        try:
            return row(source[i] if record is None else record, seed)
        except Exception as error:
            tell(f"{builder.data_path}: record {i} of split {split} is not readable ({reason(error)})", 1)
            return None

    def some(pool: Any, index: list[int], seeds: Sequence[Any]) -> list[tuple[np.ndarray, int] | None]:
        if on_bad is None:
            return readable(lambda: list(pool.map(row, source.__getitems__(index), seeds)))
        try:
            records = source.__getitems__(index)
        except Exception:  # one of them is bad
            records = [None] * len(index)
        return list(pool.map(functools.partial(one, on_bad), index, seeds, records))

    source = readable(
        lambda: builder.as_data_source(split=split, deserialize_method=library.decode.DeserializeMethod.RAW_BYTES)
    )

    together: list[int] = []  # number of rows to read at once, set by the first read

    @quiet()
    def read_as(shape: tuple[int, ...], index: np.ndarray, seeds: Any) -> dict[str, np.ndarray]:
        if not together:
            largest = readable(lambda: refuse_cut(builder, split))
            together.append(max(1, min(1024, READ_BYTES // max(int(np.prod(shape)), largest))))
        image, label = np.zeros((len(index), *shape), np.uint8), np.zeros(len(index), np.int32)
        row_mask, n = np.ones(len(index), np.float32), together[0]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for k in range(0, len(index), n):
                for j, found in enumerate(some(pool, [int(i) for i in index[k : k + n]], seeds[k : k + n]), k):
                    if found is None:
                        row_mask[j] = 0
                    else:
                        image[j], label[j] = found
        return {"image": image, "label": label} | ({} if on_bad is None else {"row_mask": row_mask})

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        return read_as(shape, index, [None] * len(index))

    read_train = functools.partial(read_as, (*drawn.size, shape[-1])) if drawn else None
    return Indexed(read, len(source), classes, read_train=read_train)
