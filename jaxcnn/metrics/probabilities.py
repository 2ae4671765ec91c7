"""Metrics of probabilities: Brier score, calibration, and areas under ROC and precision-recall curves from histograms.

Logits are `[B, ..., K]` for a softmax, or `[B, ..., 1]` for one sigmoid; labels are `[B, ...]`, and labels outside
0..K-1 do not count.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.types import Batch, Mean, Metric, check_whole
from jaxcnn.metrics.sums import columns, fits, judged, judged_each, mean, predicted_class, tally

Array = jax.Array
BLOCK = 256  # rows per partial sum of confidences


class Reliability(NamedTuple):
    """Number of rows per bin of confidence, `[bins]`, with their mean confidence and accuracy; NaN for empty bins."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


class Calibration(NamedTuple):
    """Sums over the rows in each bin."""

    counts: Any  # [bins]
    confidence: Any  # [bins]
    correct: Any  # [bins]

    def compute(self) -> dict[str, Any]:
        """Return `ece` and `mce` (0..1; NaN if there are no rows or a confidence is NaN), and `reliability`."""
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
    """Row counts by class, by whether the row belongs to it, and by bin of its score; and the number of NaN scores."""

    counts: Any  # [K, 2, bins]
    nans: Any  # [K]

    def compute(self) -> dict[str, Any]:
        """Return the areas and their error bounds; see `binned_scores`."""
        counts, broken = np.asarray(self.counts, np.float64), np.asarray(self.nans) > 0
        negative, positive = counts[:, 0, ::-1], counts[:, 1, ::-1]  # the highest scores first
        out: dict[str, Any] = {}
        for name, bounds in (("roc_auc", _roc_bounds), ("pr_auc", _pr_bounds)):
            low, high = (np.where(broken, np.nan, x) for x in bounds(positive, negative))
            value, error = (low + high) / 2, (high - low) / 2
            defined = ~np.isnan(value) | broken  # averages leave out an undefined class, but not a NaN
            for key, each in ((name, value), (f"{name}_error", error)):
                out[key] = float(each[defined].mean()) if defined.any() else float("nan")
                out[f"{key}_by_class"] = each
        return out


def brier(logits: Array, batch: Batch) -> Mean:
    """Mean squared distance between the probabilities and the truth (Brier, 1950).

    With three or more classes it is summed over them, 0..2. With two classes or one logit it is half of that, 0..1, as
    in scikit-learn's `brier_score_loss(scale_by_half="auto")`. NaN logits make it NaN.
    """
    (label, counts, unsound), k = judged(logits, batch), logits.shape[-1]
    if k == 1:
        values = (jax.nn.sigmoid(_wide(logits)[..., 0]) - label) ** 2
    else:
        values = ((jax.nn.softmax(_wide(logits), -1) - jax.nn.one_hot(label, k)) ** 2).sum(-1)
        values = values / 2 if k == 2 else values
    return mean(jnp.where(unsound, jnp.nan, values), batch, counts)


def log_loss(logits: Array, batch: Batch) -> Mean:
    """Mean negative log-probability of the label, in nats, as scikit-learn's `log_loss`; NaN logits make it NaN."""
    label, counts, unsound = judged(logits, batch)
    values = own_log_loss(logits, label)
    return mean(jnp.where(unsound, jnp.nan, values), batch, counts)


def own_log_loss(logits: Array, label: Array) -> Array:
    """Negative log-probability of each label `[B, ...]`; finite even where the float32 probability is 0."""
    logits = _wide(logits)
    if logits.shape[-1] == 1:
        return -jax.nn.log_sigmoid(jnp.where(label == 1, logits[..., 0], -logits[..., 0]))
    own = jnp.take_along_axis(logits, label.clip(0, logits.shape[-1] - 1)[..., None], -1)
    return jax.nn.logsumexp(logits, -1) - own[..., 0]


def calibration(bins: int = 15) -> Metric:
    """Expected and maximum calibration error, with the reliability diagram (Guo et al., 2017, arXiv:1706.04599).

    The confidence is the probability of the predicted class, also with a single logit. Bins are `(lo, hi]`, of equal
    width. The state computes `ece` (the gaps between accuracy and confidence, weighted by rows), `mce` (the largest
    gap) and `reliability`, a `Reliability`.

    Raises:
        InputError: fewer than one bin.

    """
    check_whole("bins", bins, 1)
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
        # a single float32 sum over all pixels would stop growing at 2**24, so add up in blocks
        block, blocks = jnp.arange(sure.size) // BLOCK, -(-sure.size // BLOCK)
        confidence = jnp.zeros((blocks, bins)).at[block, place].add(jnp.where(counted, sure, 0)).sum(0)
        return Calibration(tally(place, counted, (bins,)), confidence, tally(place, counted & right, (bins,)))

    return metric


def log_odds(logits: Array) -> Array:
    """Log-odds of each class against all others, float32 `[..., K]`: ordered as the probabilities, without saturation.

    A single logit `[..., 1]` is its own log-odds.
    """
    logits = _wide(logits)
    k = logits.shape[-1]
    if k == 1:
        return logits
    top = jax.nn.one_hot(logits.argmax(-1), k, dtype=bool)
    largest = logits.max(-1, keepdims=True)
    # summing without the largest avoids a difference of nearly equal numbers
    rest = jax.nn.logsumexp(jnp.where(top, -jnp.inf, logits), axis=-1, keepdims=True)
    shares = jnp.exp(logits - largest)
    others = shares.sum(-1, keepdims=True) - shares  # at least 1, except for the largest
    return jnp.where(top, logits - rest, logits - largest - jnp.log(jnp.where(top, 1, others)))


def binned_scores(num_classes: int, bins: int = 2048, multilabel: bool = False) -> Metric:
    """Areas under the one-vs-rest ROC and precision-recall curves, with error bounds, without keeping the scores.

    Rows are counted in bins of their probability; the bins are equal steps in the fourth root of the odds, and so finer
    towards 0 and 1. The order of rows in different bins is known, the order within a bin is not. The areas for the best
    and the worst order within bins therefore enclose the exact ones (`roc_auc` and `pr_auc` of `log_odds(logits)`),
    ties included. The state computes

    - `roc_auc`, `pr_auc` (average precision): the midpoint between the bounds, averaged over the classes that have
      positives and, for `roc_auc`, negatives;
    - `roc_auc_error`, `pr_auc_error`: the largest possible distance from the exact area;
    - the same with `_by_class`, `[K]`, NaN where a class is not defined. NaN logits make their classes and the averages
      NaN.

    Args:
        num_classes: K of the logits; 1 for one logit `[B, ..., 1]`, whose positive class is 1.
        bins: number of bins; each takes 8 bytes per class.
        multilabel: logits and labels are `[B, K]`, one question per column, instead of a softmax.

    Raises:
        InputError: fewer than one class or two bins, or (when traced) logits for a different number of classes.

    """
    check_whole("bins", bins, 2)
    check_whole("num_classes", num_classes, 1)
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
        # comparing with edges keeps the exact order, unlike rounded formulas
        place = jnp.searchsorted(edges, odds, side="right")
        row = columns(odds) * 2 + truth
        return Histograms(
            tally(row * bins + place, counted, (num_classes, 2, bins)), (counted & jnp.isnan(odds)).sum(0)
        )

    return metric


def _roc_bounds(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest area, `[K]`: pairs within one bin count nothing, or fully."""
    lower = negative.sum(-1, keepdims=True) - negative.cumsum(-1)  # negatives in lower bins
    pairs = positive.sum(-1) * negative.sum(-1)

    def divide(x):
        return np.divide(x, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)

    return divide((positive * lower).sum(-1)), divide((positive * (lower + negative)).sum(-1))


def _pr_bounds(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest average precision, `[K]`.

    Let higher bins hold t positives and f negatives, and this bin p and n. A positive of this bin has at most the
    precision (t + p) / (t + p + f), when all positives of the bin tie ahead of its negatives. The i-th positive has at
    least (t + i) / (t + i + c) with c = f + n. This is concave in i, so the sum is at least the integral from 1/2 to p
    + 1/2.
    """
    before = positive.cumsum(-1) - positive
    above = negative.cumsum(-1)  # including this bin
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
