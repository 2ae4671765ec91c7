"""Rows are checked before a step sees them: those in memory at once, others as they are read."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import Batch, InputError
from jaxcnn.data.core import ALL, Resident, Shard, Tree
from jaxcnn.parallel.compile import Chunk, StackedChunk
from jaxcnn.tasks.pixels import check_layout


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

    def put(self, move: Callable[[Tree], Tree]) -> "Checked":
        """Move what can live on the device to the device, once."""
        return dataclasses.replace(self, data=self.data.put(move))

    def chunk(
        self, batch_size: int, start: int, count: int, capacity: int, multiple: int = 1, shard: Shard = ALL
    ) -> Chunk:
        """Return training batches `start` to `start + count`, once their rows have passed."""
        return self._passed(self.data.chunk(batch_size, start, count, capacity, multiple, shard))

    def once(self, batch_size: int, multiple: int = 1, shard: Shard = ALL) -> Iterator[Chunk]:
        """Give every row once, in order, once the rows of its chunk have passed."""
        return map(self._passed, self.data.once(batch_size, multiple, shard))

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
            f"{name}: labels of dtype {label.dtype} and shape {label.shape}; must be integers of shape ({len(image)},), one an image"
        )
    if label.min() < 0 or label.max() >= len(classes):
        bad = int(label.min() if label.min() < 0 else label.max())
        raise InputError(
            f"{name}: label {bad} is out of range; with {len(classes)} classes labels are 0 to {len(classes) - 1}"
        )
    return Resident({"image": image, "label": label.astype(np.int32)}, classes)
