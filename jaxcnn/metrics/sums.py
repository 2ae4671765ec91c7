"""Functions `(outputs, batch) -> Sum` for logits; padding weighs nothing, and no collective is inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.metrics.scores import report
from jaxcnn.types import Batch, Count, Mean, Metric, align, real

Array = jax.Array


class Confusion(NamedTuple):
    """Counts by true class (row) and predicted class (column)."""

    counts: Any  # [K, K]

    def compute(self) -> dict[str, Any]:
        """Return the matrix as `confusion`, int64, and precision, recall and F1 with each average, as `f1_macro`."""
        matrix = np.asarray(self.counts).astype(np.int64)
        return {"confusion": matrix, **report(matrix)}


def mean(values: Array, batch: Batch) -> Mean:
    """Sum values `[B, ...]` over the real rows, with their number."""
    weight = jnp.broadcast_to(align(real(batch), values), values.shape)
    return Mean((values * weight).sum(), weight.sum())


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
    """Confusion matrix `[K, K]`, rows the truth."""

    def metric(logits: Array, batch: Batch) -> Confusion:
        truth = jax.nn.one_hot(true_class(batch), num_classes) * real(batch)[:, None]
        guess = jax.nn.one_hot(predicted_class(logits), num_classes)
        return Confusion(jnp.matmul(truth.T, guess, precision="highest"))

    return metric


def multilabel_accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of right yes-or-no answers; logits and labels `[B, K]`."""
    return mean(((logits > 0) == (batch["label"] > 0.5)).astype(jnp.float32), batch)
