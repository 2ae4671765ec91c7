"""Metrics of logits: functions `(outputs, batch) -> MetricState`; padding has no weight, and none uses a collective."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, Count, InputError, Mean, Metric, align, check_whole, row_mask
from jaxcnn.losses.classification import ROUNDING
from jaxcnn.metrics.scores import report

Array = jax.Array


class Confusion(NamedTuple):
    """Counts by true class (row) and predicted class (column), and the number of rows without a valid prediction."""

    counts: Any  # [K, K]
    left_out: Any = 0

    def compute(self) -> dict[str, Any]:
        """Return the matrix as `confusion`, int64, and the scores of `scores.report`: NaN if rows were left out."""
        return _with_scores("confusion", self.counts, self.left_out)


class MultilabelConfusion(NamedTuple):
    """Counts for each of K labels, `[[tn, fp], [fn, tp]]`, and the number of answers left out because they are NaN."""

    counts: Any  # [K, 2, 2]
    left_out: Any = 0

    def compute(self) -> dict[str, Any]:
        """Return the counts as `multilabel_confusion`, int64, and `scores.report`: NaN if answers were left out."""
        return _with_scores("multilabel_confusion", self.counts, self.left_out)


def _with_scores(name: str, counts: Any, left_out: Any) -> dict[str, Any]:
    matrix = np.asarray(counts).astype(np.int64)
    scores = report(matrix)
    return {name: matrix, **(dict.fromkeys(scores, float("nan")) if float(left_out) else scores)}


def mean(values: Array, batch: Batch, where: Array | None = None) -> Mean:
    """Add up values `[B, ...]` and their number.

    Args:
        values: `[B, ...]`.
        batch: its `row_mask` tells rows from padding.
        where: `[B, ...]`, true for the values that count; None for all.

    """
    weight = jnp.broadcast_to(align(row_mask(batch), values), values.shape)
    if where is not None:
        weight = weight * where
    return Mean(jnp.where(weight > 0, values * weight, 0).sum(), weight.sum())  # padding may hold inf and NaN


def count(outputs: Any, batch: Batch) -> Count:
    """Count the rows that are not padding."""
    del outputs
    return Count((row_mask(batch) > 0).sum(dtype=jnp.int32))  # float32 could not count beyond 2**24


def entry(batch: Batch, name: str) -> Any:
    """Return an entry of a batch; `InputError` if it has none of this name."""
    if name not in batch:
        raise InputError(f"the batch has no {name!r}, which this metric needs; it has {', '.join(sorted(batch))}")
    return batch[name]


def predicted_class(logits: Array) -> Array:
    """Return the class of the largest logit, the first if tied; a positive single logit is class 1; NaN gives -1."""
    guess = (logits[..., 0] > 0) if logits.shape[-1] == 1 else logits.argmax(-1)
    return jnp.where(jnp.isnan(logits).any(-1), -1, guess.astype(jnp.int32))


def true_class(batch: Batch, logits: Array | None = None) -> Array:
    """Return labels as indices, int32 `[B, ...]`; -1 where a label is not valid.

    Labels are integers or booleans `[B, ...]`, or probabilities `[B, ..., K]` (mixup), of which the largest counts. For
    one logit `[B, ..., 1]` they may have its shape, may be numbers from 0 to 1 (above one half means class 1), or may
    be the probabilities of both classes `[B, ..., 2]`.

    Args:
        batch: with `"label"`.
        logits: `[B, ..., K]`, which the labels must fit; None interprets the labels alone.

    Raises:
        InputError: the shape of the labels does not fit the logits (when traced).

    """
    label = jnp.asarray(entry(batch, "label"))
    number = jnp.issubdtype(label.dtype, jnp.floating)
    single = label.ndim == 1 or label.shape[-1] == 1
    if logits is not None:
        pair = (*logits.shape[:-1], 2)
        both = number and logits.shape[-1] == 1 and label.shape == pair  # probabilities of the two classes
        single = logits.shape[-1] == 1 and not both
        places, shares = label.shape == logits.shape[:-1], label.shape == logits.shape or both
        if not (places or shares) if single else not (shares if number else places):
            raise InputError(_unfit(label, logits))
        label = label.reshape(logits.shape[:-1]) if single else label
    elif number and single:
        label = label.reshape(label.shape[:1]) if label.ndim == 2 else label
    if not number:
        return label.astype(jnp.int32)
    if single:
        return jnp.where((label < 0) | (label > 1), -1, (label > 0.5).astype(jnp.int32))
    return jnp.where(label.max(-1) <= 0, -1, label.argmax(-1).astype(jnp.int32))  # one_hot(-1) is 0 everywhere


def _unfit(label: Array, logits: Array) -> str:
    places, k = list(logits.shape[:-1]), logits.shape[-1]
    one = f"numbers {places} or {[*places, 1]}, or probabilities {[*places, 2]}"
    wanted = one if k == 1 else f"integers {places} or probabilities {[*places, k]} of floats"
    return (
        f"labels {label.dtype} of shape {list(label.shape)} for logits of shape {list(logits.shape)}: must be {wanted}"
    )


def judged(logits: Array, batch: Batch, num_classes: int | None = None) -> tuple[Array, Array, Array]:
    """Return labels as indices, which positions count, and where an output or a label is NaN; `[B, ...]` each.

    `num_classes` defaults to the number of logits, or to two for a single logit.
    """
    label, given = true_class(batch, logits), jnp.asarray(entry(batch, "label"))
    unsound = jnp.isnan(logits).any(-1)
    if jnp.issubdtype(given.dtype, jnp.floating):
        if given.ndim == label.ndim:
            unsound |= jnp.isnan(given)
        else:  # a multi-hot row is no distribution over classes
            unsound |= jnp.isnan(given).any(-1) | (given.min(-1) < -ROUNDING) | (given.sum(-1) > 1 + ROUNDING)
    return label, known(label, num_classes or max(logits.shape[-1], 2), batch), unsound


def known(label: Array, num_classes: int, batch: Batch) -> Array:
    """Whether a label `[B, ...]` counts: its row is not padding, and it lies in 0 to `num_classes` - 1."""
    return (align(row_mask(batch), label) > 0) & (label >= 0) & (label < num_classes)


def tally(cell: Array, counts: Array, shape: tuple[int, ...]) -> Array:
    """Count how often each cell of a table occurs, in int32: float32 could not count beyond 2**24.

    Args:
        cell: flat index into the table, of any shape.
        counts: of the same shape; false for entries that do not count.
        shape: shape of the table.

    """
    table = jnp.zeros(int(np.prod(shape)), jnp.int32)
    return table.at[jnp.where(counts, cell, 0).ravel()].add(counts.ravel().astype(jnp.int32)).reshape(shape)


def accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of rows where the label has the largest logit; logits `[B, ..., K]`, or `[B, ..., 1]` for two classes."""
    label, counts, unsound = judged(logits, batch)
    return mean(jnp.where(unsound, jnp.nan, (predicted_class(logits) == label).astype(jnp.float32)), batch, counts)


def top_k(k: int) -> Metric:
    """Share of rows whose label is among the `k` largest logits; ties rank by class index.

    Raises:
        InputError: `k` below 1.

    """
    check_whole("k", k, 1)

    def metric(logits: Array, batch: Batch) -> Mean:
        label, counts, unsound = judged(logits, batch)
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
        own = jnp.take_along_axis(logits, label.clip(0, logits.shape[-1] - 1)[..., None], -1)
        before = columns(logits) < label[..., None]
        rank = ((logits > own) | ((logits == own) & before)).sum(-1)
        return mean(jnp.where(unsound, jnp.nan, (rank < k).astype(jnp.float32)), batch, counts)

    return metric


def confusion(num_classes: int) -> Metric:
    """Confusion matrix `[K, K]` with true classes as rows; logits `[B, ..., K]` or `[B, ..., 1]`, labels `[B, ...]`.

    For images, `[B, H, W, K]`, it counts pixels. A label outside 0..K-1, such as 255 or -1 for "unknown", does not
    count. A row with a known label is left out if its prediction is NaN or a class beyond the matrix; the scores that
    come with the matrix are then NaN.
    """
    check_whole("num_classes", num_classes, 1)

    def metric(logits: Array, batch: Batch) -> Confusion:
        (truth, counts, unsound), guess = judged(logits, batch, num_classes), predicted_class(logits)
        lost = counts & (unsound | (guess >= num_classes))
        table = tally(truth * num_classes + guess, counts & ~lost, (num_classes, num_classes))
        return Confusion(table, lost.sum(dtype=jnp.int32))

    return metric


def multilabel_accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of right yes-or-no answers; logits and labels are `[B, K]`, and labels above one half mean yes."""
    truth, counts, unsound = judged_each(logits, batch)
    return mean(jnp.where(unsound, jnp.nan, ((logits > 0) == truth).astype(jnp.float32)), batch, counts)


def multilabel_confusion(num_classes: int) -> Metric:
    """Confusion of each label, `[K, 2, 2]` as `[[tn, fp], [fn, tp]]`; logits and labels are `[B, K]`.

    An answer that is NaN is left out, and the scores that come with the counts are then NaN.
    """
    check_whole("num_classes", num_classes, 1)

    def metric(logits: Array, batch: Batch) -> MultilabelConfusion:
        fits(num_classes, logits)
        truth, counts, unsound = judged_each(logits, batch)
        cell = columns(logits) * 4 + truth * 2 + (logits > 0)
        table = tally(cell, counts & ~unsound, (num_classes, 2, 2))
        return MultilabelConfusion(table, (counts & unsound).sum(dtype=jnp.int32))

    return metric


def judged_each(logits: Array, batch: Batch) -> tuple[Array, Array, Array]:
    """Return, for several labels per row, which are yes, which answers count, and which are NaN; `[B, K]` each."""
    label = jnp.asarray(entry(batch, "label"))
    if label.shape != logits.shape and (*label.shape, 1) != logits.shape:
        raise InputError(
            f"labels of shape {list(label.shape)} for logits of shape {list(logits.shape)}: must be the same, [B, K]"
        )
    label = label.reshape(logits.shape).astype(jnp.float32)
    unsound = jnp.isnan(logits) | jnp.isnan(label)
    return label > 0.5, (align(row_mask(batch), label) > 0) & ~((label < 0) | (label > 1)), unsound


def columns(logits: Array) -> Array:
    """Return the class index of every logit, int32 `[B, ..., K]`."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def fits(num_classes: int, logits: Array) -> None:
    """Refuse logits for a different number of classes."""
    if logits.shape[-1] != num_classes:
        raise InputError(f"num_classes={num_classes}: the logits have {logits.shape[-1]} classes; use that number")
