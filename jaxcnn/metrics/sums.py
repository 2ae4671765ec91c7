"""Functions `(outputs, batch) -> MetricState` for logits; padding weighs nothing, and no collective is inside."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, Count, InputError, Mean, Metric, align, row_mask
from jaxcnn.metrics.scores import report

Array = jax.Array


class Confusion(NamedTuple):
    """Counts by true class (row) and predicted class (column), and how many rows have no prediction among the classes."""

    counts: Any  # [K, K]
    left_out: Any = 0

    def compute(self) -> dict[str, Any]:
        """Return the matrix as `confusion`, int64, and what `scores.report` makes of it, as `f1_macro`: NaN where rows are left out."""
        return _with_scores("confusion", self.counts, self.left_out)


class MultilabelConfusion(NamedTuple):
    """Counts for each of K labels, `[[tn, fp], [fn, tp]]`, and how many answers are left out because they are NaN."""

    counts: Any  # [K, 2, 2]
    left_out: Any = 0

    def compute(self) -> dict[str, Any]:
        """Return the counts as `multilabel_confusion`, int64, and `scores.report` of them: NaN where answers are left out."""
        return _with_scores("multilabel_confusion", self.counts, self.left_out)


def _with_scores(name: str, counts: Any, left_out: Any) -> dict[str, Any]:
    matrix = np.asarray(counts).astype(np.int64)
    scores = report(matrix)
    return {name: matrix, **(dict.fromkeys(scores, float("nan")) if float(left_out) else scores)}


def mean(values: Array, batch: Batch, where: Array | None = None) -> Mean:
    """Sum values `[B, ...]` over the real rows, with their number; `where` `[B, ...]` is true for what counts within them."""
    weight = jnp.broadcast_to(align(row_mask(batch), values), values.shape)
    if where is not None:
        weight = weight * where
    return Mean(jnp.where(weight > 0, values * weight, 0).sum(), weight.sum())  # padding may hold inf and NaN


def count(outputs: Any, batch: Batch) -> Count:
    """Count the real rows."""
    del outputs
    return Count((row_mask(batch) > 0).sum(dtype=jnp.int32))  # in float32 the pixels of one dispatch would pass 2**24


def predicted_class(logits: Array) -> Array:
    """Class of the largest logit, the first one where several tie; of one logit `[B, 1]`, whether it is positive; -1 of NaN."""
    guess = (logits[..., 0] > 0) if logits.shape[-1] == 1 else logits.argmax(-1)
    return jnp.where(jnp.isnan(logits).any(-1), -1, guess.astype(jnp.int32))


def true_class(batch: Batch, logits: Array | None = None) -> Array:
    """Return labels as indices, int32 `[B, ...]`; -1 where a label is none.

    Labels are integers or booleans `[B, ...]`, or probabilities `[B, ..., K]` (mixup), of which the largest counts. For one logit
    `[B, ..., 1]` they may have its shape, and may be numbers from 0 to 1, of which those above one half are class 1, or the
    probabilities `[B, ..., 2]` of both classes.

    Args:
        batch: with `"label"`.
        logits: what the labels must fit, `[B, ..., K]`; None to go by the labels alone.

    Raises:
        InputError: labels of another shape than the logits say (when traced).

    """
    label = jnp.asarray(batch["label"])
    number = jnp.issubdtype(label.dtype, jnp.floating)
    single = label.ndim == 1 or label.shape[-1] == 1
    if logits is not None:
        both = (
            number and logits.shape[-1] == 1 and label.shape == (*logits.shape[:-1], 2)
        )  # probabilities of the two classes
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
    """Return labels as indices, which places count, and at which of them an output or a label is NaN; `[B, ...]` each.

    `num_classes` is that of the logits by default, and two for one logit.
    """
    label, given = true_class(batch, logits), jnp.asarray(batch["label"])
    unsound = jnp.isnan(logits).any(-1)
    if jnp.issubdtype(given.dtype, jnp.floating):
        unsound |= jnp.isnan(given).any(-1) if given.ndim > label.ndim else jnp.isnan(given)
    return label, known(label, num_classes or max(logits.shape[-1], 2), batch), unsound


def known(label: Array, num_classes: int, batch: Batch) -> Array:
    """Whether a label `[B, ...]` counts: its row is real, and it is one of 0 to `num_classes` - 1."""
    return (align(row_mask(batch), label) > 0) & (label >= 0) & (label < num_classes)


def tally(cell: Array, counts: Array, shape: tuple[int, ...]) -> Array:
    """Count how often each cell of a table is named, int32; `cell` is a flat index, `counts` whether it counts.

    Integers do not lose units: in float32 the pixels of one dispatch would pass 2**24.
    """
    table = jnp.zeros(int(np.prod(shape)), jnp.int32)
    return table.at[jnp.where(counts, cell, 0).ravel()].add(counts.ravel().astype(jnp.int32)).reshape(shape)


def accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of rows whose largest logit is the label's; logits `[B, ..., K]`, or `[B, ..., 1]` for two classes."""
    label, counts, unsound = judged(logits, batch)
    return mean(jnp.where(unsound, jnp.nan, (predicted_class(logits) == label).astype(jnp.float32)), batch, counts)


def top_k(k: int) -> Metric:
    """Share of rows whose label is among the `k` largest logits; equal logits count in order of class.

    Raises:
        InputError: `k` below 1.

    """
    _at_least_one("k", k)

    def metric(logits: Array, batch: Batch) -> Mean:
        label, counts, unsound = judged(logits, batch)
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], -1) if logits.shape[-1] == 1 else logits
        own = jnp.take_along_axis(logits, label.clip(0, logits.shape[-1] - 1)[..., None], -1)
        before = columns(logits) < label[..., None]
        rank = ((logits > own) | ((logits == own) & before)).sum(-1)
        return mean(jnp.where(unsound, jnp.nan, (rank < k).astype(jnp.float32)), batch, counts)

    return metric


def confusion(num_classes: int) -> Metric:
    """Confusion matrix `[K, K]`, rows the truth, of logits `[B, ..., K]` (`[B, ..., 1]` for two classes) and labels `[B, ...]`.

    Of images, `[B, H, W, K]`, it counts pixels. A label outside 0..K-1, such as 255 or -1 for "unknown", counts nowhere. A row of a
    known label whose prediction is NaN, or a class beyond the matrix, is left out, and the scores that come with the matrix are NaN.
    """
    _at_least_one("num_classes", num_classes)

    def metric(logits: Array, batch: Batch) -> Confusion:
        (truth, counts, unsound), guess = judged(logits, batch, num_classes), predicted_class(logits)
        lost = counts & (unsound | (guess >= num_classes))
        table = tally(truth * num_classes + guess, counts & ~lost, (num_classes, num_classes))
        return Confusion(table, lost.sum(dtype=jnp.int32))

    return metric


def multilabel_accuracy(logits: Array, batch: Batch) -> Mean:
    """Share of right yes-or-no answers; logits and labels `[B, K]`, labels above one half are yes."""
    truth, counts, unsound = judged_each(logits, batch)
    return mean(jnp.where(unsound, jnp.nan, ((logits > 0) == truth).astype(jnp.float32)), batch, counts)


def multilabel_confusion(num_classes: int) -> Metric:
    """Confusion of each label, `[K, 2, 2]` as `[[tn, fp], [fn, tp]]`; logits and labels `[B, K]`.

    An answer that is NaN is left out, and the scores that come with the counts are NaN.
    """
    _at_least_one("num_classes", num_classes)

    def metric(logits: Array, batch: Batch) -> MultilabelConfusion:
        fits(num_classes, logits)
        truth, counts, unsound = judged_each(logits, batch)
        cell = columns(logits) * 4 + truth * 2 + (logits > 0)
        table = tally(cell, counts & ~unsound, (num_classes, 2, 2))
        return MultilabelConfusion(table, (counts & unsound).sum(dtype=jnp.int32))

    return metric


def judged_each(logits: Array, batch: Batch) -> tuple[Array, Array, Array]:
    """Return of several labels a row which are yes, which answers count, and which of them are NaN; `[B, K]` each."""
    label = jnp.asarray(batch["label"])
    if label.shape != logits.shape and (*label.shape, 1) != logits.shape:
        raise InputError(
            f"labels of shape {list(label.shape)} for logits of shape {list(logits.shape)}: must be the same, [B, K]"
        )
    label = label.reshape(logits.shape).astype(jnp.float32)
    unsound = jnp.isnan(logits) | jnp.isnan(label)
    return label > 0.5, (align(row_mask(batch), label) > 0) & ~((label < 0) | (label > 1)), unsound


def columns(logits: Array) -> Array:
    """Return the number of the class at every logit, int32 `[B, ..., K]`."""
    return jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)


def fits(num_classes: int, logits: Array) -> None:
    """Refuse logits for another number of classes."""
    if logits.shape[-1] != num_classes:
        raise InputError(f"num_classes={num_classes}: the logits are for {logits.shape[-1]}; give that")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name}={value}: must be at least 1")
