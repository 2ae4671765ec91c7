"""Sums over unit vectors from which the mean cosine of all pairs of rows follows, without visiting the pairs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Metric, check_whole, row_mask
from jaxcnn.metrics.sums import entry

Array = jax.Array


class PairCosines(NamedTuple):
    """Sum of the vectors of each class `[K, D]`, rows of each class `[K]`, and the sum of squared lengths."""

    sums: Any
    counts: Any
    squares: Any

    def compute(self) -> dict[str, float]:
        """Return `same_cosine` and `other_cosine`, means over pairs of one class and of two, and their difference.

        Each is NaN without such a pair.
        """
        sums, counts = np.asarray(self.sums, np.float64), np.asarray(self.counts, np.float64)
        each, whole = (sums**2).sum(), (sums.sum(0) ** 2).sum()
        same, other = (counts * (counts - 1)).sum(), counts.sum() ** 2 - (counts**2).sum()
        near = float((each - float(self.squares)) / same) if same else float("nan")
        far = float((whole - each) / other) if other else float("nan")
        return {"same_cosine": near, "other_cosine": far, "separation": near - far}


def pair_cosines(num_classes: int) -> Metric:
    """Mean cosine over all pairs of rows of one class, and over all pairs of two classes: the same for any batches.

    The cosines of a class sum up to the squared length of the sum of its vectors, so that sums suffice.

    Args:
        num_classes: number of classes K, at least 1.

    Returns:
        A metric of unit vectors `[B, D]` and `"label"` int `[B]`, with the values `same_cosine`, `other_cosine` and
        their difference, `separation`. A label that is not a class does not count.

    """
    check_whole("num_classes", num_classes)
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes}: must be at least 1")

    def measured(embedding: Array, batch: Batch) -> PairCosines:
        label = jnp.asarray(entry(batch, "label"))
        if label.shape != embedding.shape[:1] or not jnp.issubdtype(label.dtype, jnp.integer):
            raise InputError(f"labels {label.dtype} of shape {label.shape}: must be integers {embedding.shape[:1]}")
        label, embedding = label.astype(jnp.int32), embedding.astype(jnp.float32)
        counted = (row_mask(batch) > 0) & (label >= 0) & (label < num_classes)
        rows = jnp.where(counted[:, None], embedding, 0)
        place = jnp.where(counted, label, 0)
        sums = jnp.zeros((num_classes, rows.shape[1]), rows.dtype).at[place].add(rows)
        counts = jnp.zeros(num_classes, rows.dtype).at[place].add(counted.astype(rows.dtype))
        return PairCosines(sums, counts, jnp.square(rows).sum())

    return measured
