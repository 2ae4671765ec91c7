"""Sums that judge probabilities: the Brier score, calibration, and areas under ROC and precision-recall curves from histograms.

Logits are `[B, ..., K]` for a softmax, or `[B, ..., 1]` for one sigmoid; labels `[B, ...]`, and one outside 0..K-1 counts nowhere.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, InputError, Mean, Metric
from jaxcnn.metrics.sums import columns, fits, judged, judged_each, mean, predicted_class, tally

Array = jax.Array
BLOCK = 256  # rows whose confidences are added one after another


class Reliability(NamedTuple):
    """Rows of each bin of confidence, `[bins]`, with their mean confidence and accuracy; NaN where there are none."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class Calibration(NamedTuple):
    """Sums over the rows of each bin."""

    counts: Any  # [bins]
    confidence: Any  # [bins]
    correct: Any  # [bins]

    def compute(self) -> dict[str, Any]:
        """Return `ece` and `mce`, 0..1, NaN of no rows or of confidences that are NaN, and `reliability`."""
        counts, confidence, correct = (np.asarray(x, np.float64) for x in self)
        filled = counts > 0
        if not filled.any():
            nothing = np.full(counts.shape, np.nan)
            return {
                "ece": float("nan"),
                "mce": float("nan"),
                "reliability": Reliability(counts.astype(np.int64), nothing, nothing),
            }
        gaps = np.abs(correct - confidence)[filled]
        divided = [np.divide(x, counts, out=np.full(counts.shape, np.nan), where=filled) for x in (confidence, correct)]
        return {
            "ece": float(gaps.sum() / counts.sum()),
            "mce": float((gaps / counts[filled]).max()),
            "reliability": Reliability(counts.astype(np.int64), *divided),
        }


class Histograms(NamedTuple):
    """Rows by class, by whether they are of it, and by the bin of their score; and scores that are NaN."""

    counts: Any  # [K, 2, bins]
    nans: Any  # [K]

    def compute(self) -> dict[str, Any]:
        """Return the areas and their error bounds, see `binned_scores`."""
        counts, broken = np.asarray(self.counts, np.float64), np.asarray(self.nans) > 0
        negative, positive = counts[:, 0, ::-1], counts[:, 1, ::-1]  # the highest scores first
        out: dict[str, Any] = {}
        for name, bounds in (("roc_auc", _roc_bounds), ("pr_auc", _pr_bounds)):
            low, high = (np.where(broken, np.nan, x) for x in bounds(positive, negative))
            value, error = (low + high) / 2, (high - low) / 2
            defined = ~np.isnan(value) | broken  # a class that is not defined is left out, a NaN is not
            for key, each in ((name, value), (f"{name}_error", error)):
                out[key] = float(each[defined].mean()) if defined.any() else float("nan")
                out[f"{key}_by_class"] = each
        return out


def brier(logits: Array, batch: Batch) -> Mean:
    """Mean squared distance of the probabilities from the truth (Brier, 1950).

    Summed over the classes, 0..2, for three or more; half of that, 0..1, for two classes or one logit: as scikit-learn's
    `brier_score_loss(scale_by_half="auto")`. NaN logits make it NaN.
    """
    (label, counts, unsound), k = judged(logits, batch), logits.shape[-1]
    if k == 1:
        values = (jax.nn.sigmoid(_wide(logits)[..., 0]) - label) ** 2
    else:
        values = ((jax.nn.softmax(_wide(logits), -1) - jax.nn.one_hot(label, k)) ** 2).sum(-1)
        values = values / 2 if k == 2 else values
    return mean(jnp.where(unsound, jnp.nan, values), batch, counts)


def log_loss(logits: Array, batch: Batch) -> Mean:
    """Mean negative log-probability of the label, in natural-log units, as scikit-learn's `log_loss`; NaN logits make it NaN."""
    label, counts, unsound = judged(logits, batch)
    values = own_log_loss(logits, label)
    return mean(jnp.where(unsound, jnp.nan, values), batch, counts)


def own_log_loss(logits: Array, label: Array) -> Array:
    """Negative log-probability of each label `[B, ...]`; it does not end where a probability is 0 in float32."""
    logits = _wide(logits)
    if logits.shape[-1] == 1:
        return -jax.nn.log_sigmoid(jnp.where(label == 1, logits[..., 0], -logits[..., 0]))
    own = jnp.take_along_axis(logits, label.clip(0, logits.shape[-1] - 1)[..., None], -1)
    return jax.nn.logsumexp(logits, -1) - own[..., 0]


def calibration(bins: int = 15) -> Metric:
    """Expected and maximum calibration error, with the reliability diagram (Guo et al., 2017, arXiv:1706.04599).

    The confidence is the probability of the class that is predicted, of one logit too. Bins are `(lo, hi]`, of equal width. The state
    computes `ece` (gaps between accuracy and confidence, weighted by rows), `mce` (the largest) and `reliability`, a `Reliability`.

    Raises:
        InputError: fewer than one bin.

    """
    _bins(bins)
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)[1:-1]

    def metric(logits: Array, batch: Batch) -> Calibration:
        label, counted, unsound = judged(logits, batch)
        sure = (
            jax.nn.softmax(_wide(logits), -1).max(-1)
            if logits.shape[-1] > 1
            else jax.nn.sigmoid(jnp.abs(_wide(logits)[..., 0]))
        )
        right, sure = (predicted_class(logits) == label).ravel(), jnp.where(unsound, jnp.nan, sure).ravel()
        counted, place = counted.ravel(), jnp.searchsorted(edges, sure, side="left")  # (lo, hi]; a NaN comes last
        # one sum over all pixels would stay at 2**24, so sums of blocks
        block, blocks = jnp.arange(sure.size) // BLOCK, -(-sure.size // BLOCK)
        confidence = jnp.zeros((blocks, bins)).at[block, place].add(jnp.where(counted, sure, 0)).sum(0)
        return Calibration(tally(place, counted, (bins,)), confidence, tally(place, counted & right, (bins,)))

    return metric


def log_odds(logits: Array) -> Array:
    """Log-odds of each class against all others, `[..., K]` float32: they order rows as its probability does, and never saturate.

    One logit `[..., 1]` is its own.
    """
    logits = _wide(logits)
    k = logits.shape[-1]
    if k == 1:
        return logits
    top = jax.nn.one_hot(logits.argmax(-1), k, dtype=bool)
    largest = logits.max(-1, keepdims=True)
    rest = jax.nn.logsumexp(
        jnp.where(top, -jnp.inf, logits), axis=-1, keepdims=True
    )  # without a difference of near equals
    others = jnp.exp(logits - largest).sum(-1, keepdims=True) - jnp.exp(
        logits - largest
    )  # at least 1, but for the largest
    return jnp.where(top, logits - rest, logits - largest - jnp.log(jnp.where(top, 1, others)))


def binned_scores(num_classes: int, bins: int = 2048, multilabel: bool = False) -> Metric:
    """Areas under the one-vs-rest ROC and precision-recall curves, without keeping the scores, with bounds of the error.

    Rows are counted in bins of their probability, which are finer towards 0 and 1: the odds to the power of a quarter divide evenly.
    The order of rows in different bins is known, that within a bin is not; so the areas of the best and of the worst order enclose
    the exact ones (`roc_auc` and `pr_auc` of `log_odds(logits)`), ties included. The state computes

    - `roc_auc`, `pr_auc` (average precision): the middle of the enclosure, averaged over the classes that have both kinds of rows
      (for `pr_auc`, that have any);
    - `roc_auc_error`, `pr_auc_error`: the exact area is at most so far away;
    - the same with `_by_class`, `[K]`, NaN where a class is not defined. NaN logits make their classes and the averages NaN.

    Args:
        num_classes: K of the logits; one logit `[B, ..., 1]` is 1, and the positive class is 1.
        bins: how many; 8 bytes a class each.
        multilabel: logits and labels `[B, K]`, one question each, instead of a softmax.

    Raises:
        InputError: fewer than one class or two bins, or (when traced) logits for another number of classes.

    """
    _bins(bins, 2)
    if num_classes < 1:
        raise InputError(f"num_classes={num_classes}: must be at least 1")
    edges = (4 * (np.log(np.arange(1, bins)) - np.log(np.arange(bins - 1, 0, -1)))).astype(np.float32)

    def metric(logits: Array, batch: Batch) -> Histograms:
        fits(num_classes, logits)
        if multilabel:
            odds, (truth, counted, unsound) = _wide(logits), judged_each(logits, batch)
        else:
            odds, (label, counted, unsound) = log_odds(logits), (x[..., None] for x in judged(logits, batch))
            truth = label == columns(odds) if num_classes > 1 else label == 1
        odds = jnp.where(unsound, jnp.nan, odds)
        odds, truth, counted = (
            jnp.broadcast_to(x, odds.shape).reshape(-1, num_classes) for x in (odds, truth, counted)
        )
        # comparing with edges keeps the order exactly, as rounded formulas do not
        place = jnp.searchsorted(edges, odds, side="right")
        row = columns(odds) * 2 + truth
        return Histograms(
            tally(row * bins + place, counted, (num_classes, 2, bins)), (counted & jnp.isnan(odds)).sum(0)
        )

    return metric


def _roc_bounds(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest area, `[K]`: pairs in one bin count nothing, or fully."""
    lower = negative.sum(-1, keepdims=True) - negative.cumsum(-1)  # negatives in lower bins
    pairs = positive.sum(-1) * negative.sum(-1)

    def divide(x):
        return np.divide(x, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)

    return divide((positive * lower).sum(-1)), divide((positive * (lower + negative)).sum(-1))


def _pr_bounds(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest average precision, `[K]`.

    With t positives and f negatives in higher bins, and p and n in this one, a positive of the bin has at most the precision
    (t + p) / (t + p + f), if all its positives tie ahead of its negatives. At least, the i-th has (t + i) / (t + i + c) with
    c = f + n, which is concave in i, so that the sum is at least the integral from 1/2 to p + 1/2.
    """
    before = positive.cumsum(-1) - positive
    above = negative.cumsum(-1)  # with those of the bin
    best = positive * np.divide(
        before + positive, before + positive + above - negative, out=np.zeros_like(before), where=positive > 0
    )
    worst = positive - above * np.log1p(positive / (before + above + 0.5))
    total = positive.sum(-1)

    def divide(x):
        return np.divide(x, total, out=np.full(total.shape, np.nan), where=total > 0)

    return divide(worst.sum(-1)), divide(best.sum(-1))


def _wide(logits: Array) -> Array:
    return logits.astype(jnp.float32)


def _bins(bins: int, least: int = 1) -> None:
    if bins < least:
        raise InputError(f"bins={bins}: must be at least {least}")
