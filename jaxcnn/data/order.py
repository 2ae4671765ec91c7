"""The order of rows: which rows a batch has depends only on seed and step, so checkpoints need not save it."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.parallel.compile import StackedChunk

ROWS_IN_A_DISPATCH = 4096
Shard = tuple[int, int]  # (index, number of shards)
ALL: Shard = (0, 1)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def train_rows(seed: int, size: int, batch_size: int, start: int, count: int) -> np.ndarray:
    """Row numbers of training batches, from one permutation per epoch, so that each row occurs once per epoch.

    Args:
        seed: seed of the permutations.
        size: number of rows.
        batch_size: rows per batch; a batch may contain rows of two epochs.
        start: number of the first batch.
        count: number of batches.

    Returns:
        int64 `[count, batch_size]`.

    """
    place = np.arange(start * batch_size, (start + count) * batch_size)
    epochs = place // size
    out = np.empty(len(place), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = _permutation(seed, int(epoch), size)[place[here] % size]
    return out.reshape(count, batch_size)


def checked_rows(rows: Any, size: int | None, name: str) -> np.ndarray:
    """Return row numbers as int64 `[M]`.

    Args:
        rows: integers `[M]`.
        size: number of rows that there are; None if that is not known.
        name: what a refusal calls them.

    Raises:
        InputError: they are a mask or floats, which would be read as other numbers, or a row does not exist.

    """
    found = np.asarray(rows)
    if not found.size and found.ndim == 1:
        return np.zeros(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        fix = "; of a mask, give np.flatnonzero(mask)" if found.dtype.kind == "b" else ""
        raise InputError(f"{name}: {found.dtype} of shape {found.shape}: must be row numbers, integers [M]{fix}")
    if found.min() < 0 or size is not None and found.max() >= size:
        most = "" if size is None else f"; there are {size} rows"
        raise InputError(f"{name}: row numbers from {found.min()} to {found.max()}{most}")
    return found.astype(np.int64)


def once_rows(size: int, batch_size: int, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and `row_mask` of batches that have every row once, in order; padding repeats row 0.

    Args:
        size: number of rows.
        batch_size: rows per batch.
        multiple: batches are padded to a multiple of this many rows.

    Returns:
        Two arrays `[steps, width]`; with no rows there are no steps.

    """
    batch_size = max(min(batch_size, size), 1)
    steps, width = -(-size // batch_size), -(-batch_size // multiple) * multiple
    place = np.arange(batch_size)[None] + batch_size * np.arange(steps)[:, None]
    inside = np.pad(place < size, ((0, 0), (0, width - batch_size)))
    return np.where(inside, np.pad(place, ((0, 0), (0, width - batch_size))), 0), inside.astype(np.float32)


def padded(index: np.ndarray, multiple: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Pad batches of row numbers `[steps, B]` to a multiple, and return them with `row_mask`, None without padding."""
    more = -index.shape[1] % multiple
    if not more:
        return index, None
    return np.pad(index, ((0, 0), (0, more))), np.pad(np.ones(index.shape, np.float32), ((0, 0), (0, more)))


def columns(x: np.ndarray, shard: Shard) -> np.ndarray:
    """Return the columns of `[steps, B]` that belong to a shard."""
    width = x.shape[1] // shard[1]
    return x[:, shard[0] * width : (shard[0] + 1) * width]


def batches_in_chunk(capacity: int, index: np.ndarray) -> int:
    """Batches in one chunk of an evaluation; training instead adapts the number to the time of the last dispatch.

    With few rows it is a power of two, so that validation and test can run the same program.
    """
    steps, width = index.shape
    return max(min(capacity, 1 << max(steps - 1, 0).bit_length(), ROWS_IN_A_DISPATCH // max(width, 1)), 1)


def stack(
    rows: Mapping[str, np.ndarray], index: np.ndarray, row_mask: np.ndarray | None, capacity: int
) -> StackedChunk:
    """Copy rows into a chunk.

    The copy is needed because a CPU device may use the chunk's memory directly, while the reader may reuse its own.

    Args:
        rows: dict from name to array `[count * B, ...]`.
        index: the row numbers, `[count, B]`; only the shape is used.
        row_mask: `[count, B]`; None without padding.
        capacity: number of batches that the chunk has room for.

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
