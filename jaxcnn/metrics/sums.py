"""Functions `(outputs, batch) -> Sum` for logits; padding weighs nothing, and no collective is inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.metrics.scores import report
from jaxcnn.types import Batch, Count, InputError, Mean, Metric, align, real

Array = jax.Array


class Confusion(NamedTuple):
    """Counts by true class (row) and predicted class (column)."""

    counts: Any  # [K, K]

    def compute(self) -> dict[str, Any]:
        """Return the matrix as `confusion`, int64, and what `scores.report` makes of it, as `f1_macro`."""
        matrix = np.asarray(self.counts).astype(np.int64)
        return {"confusion": matrix, **report(matrix)}


class MultilabelConfusion(NamedTuple):
    """Counts for each of K labels, `[[tn, fp], [fn, tp]]`."""

    counts: Any  # [K, 2, 2]

    def compute(self) -> dict[str, Any]:
        """Return the counts as `multilabel_confusion`, int64, and what `scores.report` makes of them, as `f1_macro`."""
        matrix = np.asarray(self.counts).astype(np.int64)
        return {"multilabel_confusion": matrix, **report(matrix)}


def mean(values: Array, batch: Batch, where: Array | None = None) -> Mean:
    """Sum values `[B, ...]` over the real rows, with their number; `where` `[B, ...]` is true for what counts within them."""
    weight = jnp.broadcast_to(align(real(batch), values), values.shape)
    if where is not None:
        weight = weight * where
    return Mean(jnp.where(weight > 0, values * weight, 0).sum(), weight.sum())  # padding may hold inf and NaN


def count(outputs: Any, batch: Batch) -> Count:
    """Count the real rows."""
    del outputs
    return Count(real(batch).sum())


def predicted_class(logits: Array) -> Array:
    """Class of the largest logit, the first one where several tie; of one logit `[B, 1]`, whether it is positive."""
    return (logits[..., 0] > 0).astype(jnp.int32) if logits.shape[-1] == 1 else logits.argmax(-1).astype(jnp.int32)


def true_class(batch: Batch) -> Array:
    """Return labels as indices: `[B]`, also where they are probabilities `[B, K]` (mixup)."""
    label = batch["label"]
    return label if jnp.issubdtype(label.dtype, jnp.integer) else label.argmax(-1)


def known(label: Array, num_classes: int, batch: Batch) -> Array:
    """Whether a label `[B, ...]` counts: its row is real, and it is one of 0 to `num_classes` - 1."""
    return (align(real(batch), label) > 0) & (label >= 0) & (label < num_classes)


def tally(cell: Array, counts: Array, shape: tuple[int, ...]) -> Array:
    """Count how often each cell of a table is named, int32; `cell` is a flat index, `counts` whether it counts.

    Integers do not lose units: in float32 the pixels of one dispatch would pass 2**24.
    """
    table = jnp.zeros(int(np.prod(shape)), jnp.int32)
    return table.at[jnp.where(counts, cell, 0).ravel()].add(counts.ravel().astype(jnp.int32)).reshape(shape)


def accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of rows whose largest logit is the label's; logits `[B, K]`, or `[B, 1]` for two classes."""
    return mean((predicted_class(logits) == true_class(batch)).astype(jnp.float32), batch)


def top_k(k: int) -> Metric:
    """Share of rows whose label is among the `k` largest logits; equal logits count in order of class."""

    def metric(logits: Array, batch: Batch) -> Mean:
        label = true_class(batch)[:, None]
        own = jnp.take_along_axis(logits, label, -1)
        before = jnp.arange(logits.shape[-1])[None] < label
        rank = ((logits > own) | ((logits == own) & before)).sum(-1)
        return mean(((rank < k) & ~jnp.isnan(own[:, 0])).astype(jnp.float32), batch)

    return metric


def confusion(num_classes: int) -> Metric:
    """Confusion matrix `[K, K]`, rows the truth, of logits `[B, ..., K]` (`[B, ..., 1]` for two classes) and labels `[B, ...]`.

    Of images, `[B, H, W, K]`, it counts pixels. A label outside 0..K-1, such as 255 or -1 for "unknown", counts nowhere.
    """
    _at_least_one("num_classes", num_classes)

    def metric(logits: Array, batch: Batch) -> Confusion:
        truth, guess = true_class(batch), predicted_class(logits)
        counts = known(truth, num_classes, batch) & (guess < num_classes)
        return Confusion(tally(truth.astype(jnp.int32) * num_classes + guess, counts, (num_classes, num_classes)))

    return metric


def multilabel_accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of right yes-or-no answers; logits and labels `[B, K]`."""
    return mean(((logits > 0) == (batch["label"] > 0.5)).astype(jnp.float32), batch)


def multilabel_confusion(num_classes: int) -> Metric:
    """Confusion of each label, `[K, 2, 2]` as `[[tn, fp], [fn, tp]]`; logits and labels `[B, K]`, a logit that is NaN says no."""
    _at_least_one("num_classes", num_classes)

    def metric(logits: Array, batch: Batch) -> MultilabelConfusion:
        truth, guess = (batch["label"] > 0.5).astype(jnp.int32), (logits > 0).astype(jnp.int32)
        cell = jnp.arange(num_classes, dtype=jnp.int32)[None] * 4 + truth * 2 + guess
        counts = jnp.broadcast_to(real(batch)[:, None] > 0, cell.shape)
        return MultilabelConfusion(tally(cell, counts, (num_classes, 2, 2)))

    return metric


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}={value}: must be at least 1")
