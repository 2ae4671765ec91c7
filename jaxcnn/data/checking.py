"""Checks of rows before training: rows in memory are checked at once, other rows as they are read."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError
from jaxcnn.data.core import Resident, Tree
from jaxcnn.data.order import ALL, Shard
from jaxcnn.parallel.compile import Chunk, StackedChunk
from jaxcnn.tasks.pixels import check_layout


@dataclasses.dataclass(frozen=True)
class Checked:
    """A data set whose rows are checked on the host as they are read; all other attributes are those of `data`.

    Attributes:
        data: `Indexed`, a stream, or a data set of the user's own.
        check: function that gets the rows `[N, ...]` of a chunk and raises `InputError`.

    """

    data: Any
    check: Callable[[Batch], None]

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of the data set."""
        if name.startswith("__"):  # copy and pickle look these up before `data` exists
            raise AttributeError(name)
        return getattr(self.data, name)

    def put(self, move: Callable[[Tree], Tree]) -> "Checked":
        """Move rows to the devices, see `Data.put`."""
        return dataclasses.replace(self, data=self.data.put(move))

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> Chunk:
        """Check and return training batches `start` to `start + count`, see `Data.chunk`."""
        return self._passed(self.data.chunk(batch_size, start, count, capacity, multiple, shard))

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Check and yield every row once, in order, see `Data.once`."""
        return map(self._passed, self.data.once(batch_size, multiple, shard))

    def _passed(self, chunk: Chunk) -> Chunk:
        if isinstance(chunk, StackedChunk):  # batches beyond its count are padding
            self.check(jax.tree.map(lambda x: x[: int(chunk.count)].reshape(-1, *x.shape[2:]), dict(chunk.batches)))
        return chunk


def checked(data: Any, check: Callable[[Batch], None]) -> Any:
    """Check rows in memory now, and wrap any other data set so that its rows are checked as they are read.

    Args:
        data: a data set.
        check: function that raises `InputError` for wrong rows, see `Task.check`.

    Returns:
        The data set, wrapped in `Checked` unless its rows are in memory.

    Raises:
        InputError: `check` refuses a row.

    """
    if isinstance(data, Resident):
        check(getattr(data, "every_array", data.arrays))
        return data
    if getattr(data, "label", None) is not None:
        check({"label": data.label})
    return Checked(data, check)


def labelled(image: np.ndarray, label: np.ndarray, classes: tuple[str, ...], name: str) -> Resident:
    """Check images and labels, and return them as a data set with gray images `[N, H, W, 1]`.

    Args:
        image: uint8 0..255 or float 0..1, `[N, H, W]` or `[N, H, W, C]`.
        label: integers `[N]`, from 0.
        classes: class names in order of label.
        name: name of the data, for messages.

    Raises:
        InputError: A shape, a dtype or a value is wrong.

    """
    if image.ndim == 3:
        image = image[..., None]
    check_layout(image.shape, f"{name}: ")
    if image.ndim != 4 or image.size == 0:
        raise InputError(
            f"{name}: images of shape {image.shape}; must be [N, H, W] or [N, H, W, C] with at least one row and pixel"
        )
    if np.issubdtype(image.dtype, np.floating):
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise InputError(
                f"{name}: float images from {image.min()} to {image.max()}; floats must be in 0..1 (uint8 in 0..255)"
            )
        image = image.astype(np.float32)
    elif image.dtype != np.uint8:
        raise InputError(f"{name}: images of dtype {image.dtype}; must be uint8 0..255 or float 0..1")
    label = np.asarray(label)
    if not np.issubdtype(label.dtype, np.integer) or label.shape != (len(image),):
        raise InputError(
            f"{name}: labels of dtype {label.dtype} and shape {label.shape}; "
            f"must be integers of shape ({len(image)},), one per image"
        )
    if label.min() < 0 or label.max() >= len(classes):
        bad = int(label.min() if label.min() < 0 else label.max())
        raise InputError(
            f"{name}: label {bad} is out of range; with {len(classes)} classes labels are 0 to {len(classes) - 1}"
        )
    return Resident({"image": image, "label": label.astype(np.int32)}, classes)
