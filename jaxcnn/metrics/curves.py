"""Exact curves and areas from all scores, on the host, in NumPy: ROC, precision-recall, and risk against coverage.

Scores may be infinite but not NaN; equal scores share one threshold. Where scikit-learn warns that a curve is not
defined, these functions return NaN without a warning. For scores that do not fit in memory, `binned_scores` bounds the
same areas.
"""

from typing import Literal, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError

Average = Literal["macro", "weighted", "micro"]


class Roc(NamedTuple):
    """Points of a ROC curve, `[T + 1]`, from (0, 0) to (1, 1); a row is positive if its score reaches the threshold."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray


class PrecisionRecall(NamedTuple):
    """Points by rising threshold: precision and recall `[T + 1]`, which end with 1 and 0, and thresholds `[T]`."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


class RiskCoverage(NamedTuple):
    """Error among the most confident rows, `risk [N]`, by their share of all, `coverage [N]`; `area` is its mean."""

    coverage: np.ndarray
    risk: np.ndarray
    area: float


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> Roc:
    """Compute the ROC curve with every threshold, as scikit-learn does with `drop_intermediate=False`.

    Args:
        scores: `[N]`, higher for positives.
        labels: `[N]` of 0 and 1.

    Returns:
        A `Roc`. Its `fpr` is NaN if there are no negatives, its `tpr` if there are no positives; scikit-learn does the
        same, with a warning.

    Raises:
        InputError: there are no rows, a score is NaN, or a shape or label is wrong.

    """
    thresholds, hits, misses = _steps(*_binary(scores, labels))

    def start(x):
        return np.concatenate([[0], x])

    return Roc(_share(start(misses)), _share(start(hits)), np.concatenate([[np.inf], thresholds]))


def roc_auc(scores: np.ndarray, labels: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Area under the ROC curve: how often a positive row scores higher than a negative row; ties count one half.

    Args:
        scores: `[N]` (or `[N, 1]`), or `[N, K]` with one column per class. For a softmax, use probabilities or
            `log_odds(logits)`: single logits order the rows differently, and float32 probabilities near 1 tie.
        labels: `[N]` of 0 and 1, int `[N]` in 0..K-1 (each class against the rest), or `[N, K]` of 0 and 1 (several
            labels per row).
        average: over columns: `"macro"`, their mean; `"weighted"`, weighted by positives; `"micro"`, all answers
            pooled; None returns `[K]`.

    Returns:
        0..1; one half for constant scores. A class without positives or without negatives is NaN, and the averages
        leave it out (scikit-learn warns and returns NaN for the average). If no class is left, the average is NaN.

    Raises:
        InputError: there are no rows, a score is NaN, a shape or label is wrong, or the average is unknown.

    """
    return _averaged(_area, scores, labels, average)


def pr_curve(scores: np.ndarray, labels: np.ndarray) -> PrecisionRecall:
    """Compute precision and recall at every threshold, as scikit-learn's `precision_recall_curve`.

    Args:
        scores: `[N]`, higher for positives.
        labels: `[N]` of 0 and 1.

    Returns:
        A `PrecisionRecall`; without positives its recall is NaN except for the last (scikit-learn warns and returns 1).

    Raises:
        InputError: as `roc_curve`.

    """
    thresholds, hits, misses = _steps(*_binary(scores, labels))

    def end(x, last):
        return np.concatenate([x[::-1], [last]])

    return PrecisionRecall(end(hits / (hits + misses), 1.0), end(_share(hits), 0.0), thresholds[::-1])


def pr_auc(scores: np.ndarray, labels: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Area under the precision-recall curve as average precision: each precision is weighted by the recall it adds.

    Arguments and errors are those of `roc_auc`. A class without positives is NaN, and the averages leave it out
    (scikit-learn warns and counts it as 0). A class without negatives is 1.
    """
    return _averaged(_average_precision, scores, labels, average)


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Compute the error that is left when only the most confident rows are answered, and its area, the AURC.

    Reference: Geifman and El-Yaniv, 2017, arXiv:1705.08500.

    Args:
        confidence: `[N]`, such as the largest probability.
        correct: `[N]`, true where the answer was right; or the loss of each row, at least 0.

    Returns:
        A `RiskCoverage`. Rows of equal confidence get the expected risk over all their orders, so the order of rows
        does not matter.

    Raises:
        InputError: there are no rows, a confidence or loss is NaN, a loss is negative, `correct` has integers, or a
            shape is wrong.

    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct)
    if correct.dtype.kind not in "bf":
        raise InputError(f"correct of dtype {correct.dtype}: must be bool, or the losses as floats; use correct == 1")
    wrong = (~correct).astype(np.float64) if correct.dtype == bool else correct.astype(np.float64)
    if confidence.ndim != 1 or wrong.shape != confidence.shape:
        raise InputError(f"confidence of shape {confidence.shape}, correct of shape {wrong.shape}: must be [N] and [N]")
    _sound(confidence, "confidence")
    _sound(wrong, "correct")
    if wrong.min(initial=0) < 0:
        raise InputError(f"correct: the loss {wrong.min():g} is negative; must be at least 0")
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(order) - 1)
    sizes = np.diff(ends, prepend=-1)
    losses = np.diff(np.cumsum(wrong[order])[ends], prepend=0.0) / sizes  # the mean within each group of ties
    answered = np.arange(1, len(order) + 1)
    risk = np.cumsum(np.repeat(losses, sizes)) / answered
    return RiskCoverage(answered / len(order), risk, float(risk.mean()))


def _steps(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct scores in falling order, and the number of positives and negatives that reach each."""
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # not diff: inf - inf is NaN
    hits = np.cumsum(labels, dtype=np.int64)[ends]
    return scores[ends], hits, ends + 1 - hits


def _area(scores: np.ndarray, labels: np.ndarray) -> float:
    _, hits, misses = _steps(scores, labels)
    pairs = int(hits[-1]) * int(misses[-1])
    if not pairs:
        return float("nan")
    ahead = np.diff(misses, prepend=0) * (hits + np.append(0, hits[:-1]))  # doubled, to stay in integers
    return int(ahead.sum()) / (2 * pairs)


def _average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    _, hits, misses = _steps(scores, labels)
    return float((np.diff(hits, prepend=0) * (hits / (hits + misses))).sum() / hits[-1]) if hits[-1] else float("nan")


def _averaged(area, scores: np.ndarray, labels: np.ndarray, average: Average | None) -> float | np.ndarray:
    if average not in ("macro", "weighted", "micro", None):
        raise InputError(f"average={average!r}: must be 'macro', 'weighted', 'micro' or None")
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim == 1 or scores.shape[1:] == (1,):
        single = labels.shape == (len(labels), 1) if labels.ndim else False
        return area(*_binary(scores.reshape(-1), labels[:, 0] if single else labels))
    truth = _one_vs_rest(scores, labels)
    if average == "micro":
        return area(*_binary(scores.ravel(), truth.ravel()))
    _sound(scores, "scores")
    each = np.array([area(*_binary(scores[:, k], truth[:, k])) for k in range(scores.shape[1])])
    if average is None:
        return each
    defined = ~np.isnan(each)
    weights = truth.sum(0)[defined] if average == "weighted" else np.ones(defined.sum())
    return float((each[defined] * weights).sum() / weights.sum()) if weights.sum() else float("nan")


def _one_vs_rest(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels as `[N, K]` of 0 and 1."""
    if scores.ndim == 2 and labels.shape == scores.shape:
        return labels
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise InputError(
            f"scores of shape {scores.shape}, labels of shape {labels.shape}: must be [N] and [N], or [N, K] and [N] "
            "or [N, K]"
        )
    outside = (labels < 0) | (labels >= scores.shape[1]) | (labels % 1 != 0)
    if outside.any():
        raise InputError(
            f"labels: {outside.sum()} are not 0 to {scores.shape[1] - 1}, such as {labels[outside][0]}; "
            "leave these rows out"
        )
    return np.arange(scores.shape[1]) == labels[:, None]


def _binary(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or labels.shape != scores.shape:
        raise InputError(f"scores of shape {scores.shape}, labels of shape {labels.shape}: must be [N] and [N]")
    scores = _sound(scores, "scores")
    other = (labels != 0) & (labels != 1)
    if other.any():
        raise InputError(f"labels: {other.sum()} are neither 0 nor 1, such as {labels[other][0]}")
    return scores, labels.astype(bool)


def _sound(values: np.ndarray, name: str) -> np.ndarray:
    """Return scores as floats, which can be negated: an unsigned integer would wrap around."""
    if not values.size:
        raise InputError(f"{name}: no rows")
    if values.dtype.kind not in "fiub":
        raise InputError(f"{name} of dtype {values.dtype}: must be integers, floats or bools")
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if nans := int(np.isnan(values).sum()):
        raise InputError(f"{name}: {nans} of {values.size} are NaN; leave these rows out, or fix the network")
    return values


def _share(counts: np.ndarray) -> np.ndarray:
    return counts / counts[-1] if counts[-1] else np.full(counts.shape, np.nan)
