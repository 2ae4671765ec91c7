"""Decisions from a model's outputs, chosen on validation rows: a threshold, a temperature, or when not to answer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, check_whole


class Threshold(NamedTuple):
    """A decision threshold and its F1 or mean cost on the rows it was chosen on; scores at or above it are positive."""

    threshold: float
    value: float


def best_threshold(score: np.ndarray, label: np.ndarray, cost: tuple[float, float] | None = None) -> Threshold:
    """Choose the threshold with the highest F1 or the lowest mean cost on validation rows.

    Args:
        score: score of each row, `[N]`, higher for positives.
        label: 0 or 1 for each row, `[N]`.
        cost: `(cost of a false positive, cost of a false negative)`, at least 0; None to maximise F1.

    Returns:
        The threshold and its F1 or mean cost. The threshold is midway between two scores, or infinite if no row should
        be positive (NaN where scores are infinite themselves, so that no score is at least the threshold).

    Raises:
        InputError: There are no rows, a score is NaN, a label is not 0 or 1, all labels are equal, or a cost is
            negative.

    """
    kind = np.asarray(score).dtype
    score, label = np.asarray(score, np.float64), whole(label, 2).astype(bool)
    if score.shape != label.shape or not score.size or np.isnan(score).any():
        raise InputError(
            f"scores of shape {score.shape}, labels of shape {label.shape}: must be [N] each, at least one, without NaN"
        )
    if label.all() or not label.any():
        raise InputError(f"labels: all {label.size} are {int(label[0])}; a threshold needs rows of both classes")
    order = np.argsort(-score, kind="stable")
    last = _ends(score[order])
    edges = np.append(score[order][last], -np.inf)
    hits, called = np.append(0, np.cumsum(label[order])[last]), np.append(0, last + 1)
    if cost is None:
        value = 2 * hits / (called + label.sum())
        k = int(value.argmax())
    else:
        if not isinstance(cost, Sequence | np.ndarray) or len(cost) != 2 or not all(0 <= c < np.inf for c in cost):
            raise InputError(f"cost={cost}: must be two finite numbers of at least 0, of false positives and negatives")
        value = (cost[0] * (called - hits) + cost[1] * (label.sum() - hits)) / len(label)
        k = int(value.argmin())
    if k == 0:
        return Threshold(_above(score), float(value[0]))
    middle = edges[k - 1] if np.isinf(edges[k - 1 : k + 1]).any() else (edges[k - 1] + edges[k]) / 2
    if kind.kind == "f" and not kind.type(middle) > kind.type(edges[k]):  # of neighbours, rounding takes the lower one
        middle = edges[k - 1]
    return Threshold(float(middle), float(value[k]))


def _above(values: np.ndarray) -> float:
    """Return a threshold that no value reaches: infinity, or NaN if a value is infinite itself."""
    return float("nan" if np.isposinf(values).any() else "inf")


def _ends(falling: np.ndarray) -> np.ndarray:
    """Return the place of the last one of each group of equal values; not by differences: inf - inf is NaN."""
    return np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1)


def temperature(logits: np.ndarray, label: np.ndarray, steps: int = 100) -> float:
    """Find the temperature T that minimises the log loss of `logits / T` on validation rows.

    The log loss is convex in 1/T, so Newton's method with a bracket finds its only minimum. Predicted classes do not
    change.

    Args:
        logits: `[N, K]`, or `[N, 1]` from a sigmoid head.
        label: class of each row, int `[N]`.
        steps: most iterations.

    Returns:
        T; it is above 1 if the model is overconfident.

    Raises:
        InputError: The shapes do not fit, a logit is not finite, a label is not a whole number from 0 to K - 1, or the
            loss has no minimum, because all rows are right or the logits are no better than constant ones.

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.

    """
    check_whole("steps", steps, 1)
    z = np.asarray(logits, np.float64)
    label = whole(label, max(z.shape[-1], 2) if z.ndim == 2 else None)
    if z.ndim != 2 or label.shape != z.shape[:1] or not len(z) or not np.isfinite(z).all():
        raise InputError(
            f"logits of shape {z.shape}, labels of shape {label.shape}: must be finite [N, K] and [N], at least one row"
        )
    z = np.concatenate([np.zeros_like(z), z], -1) if z.shape[1] == 1 else z
    z = z - z.max(-1, keepdims=True)
    own = z[np.arange(len(z)), label]

    def mean(p):
        return (p * z).sum(-1)

    if own.mean() >= 0 or own.mean() <= z.mean():
        kind = "right" if own.mean() >= 0 else "no better than constant"
        raise InputError(
            f"logits: on these {len(z)} rows they are {kind}, so no temperature is best; give more or other rows"
        )
    b, low, high = 1.0, 0.0, np.inf  # 1 / T and its bracket
    for _ in range(steps):
        p = np.exp(b * z)
        p /= p.sum(-1, keepdims=True)
        slope = (mean(p) - own).mean()
        bend = ((p * z * z).sum(-1) - mean(p) ** 2).mean()
        low, high = (low, b) if slope > 0 else (b, high)
        new = float(np.clip(b - slope / max(bend, 1e-300), b / 2, 2 * b))
        if abs(new - b) <= 1e-12 * b:
            break
        b = new if low < new < high else (low + high) / 2
    return float(1 / b)


class Reject(NamedTuple):
    """A confidence threshold for answering: coverage is the share of rows answered, risk the error rate among them."""

    threshold: float
    coverage: float
    risk: float


def reject(
    confidence: np.ndarray, correct: np.ndarray, *, risk: float | None = None, coverage: float | None = None
) -> Reject:
    """Choose, on validation rows, the confidence below which a model should not answer.

    Give either `risk` or `coverage`.

    Args:
        confidence: confidence of each row, `[N]`.
        correct: whether the model is right, bool `[N]`.
        risk: highest error rate among the answered rows, 0..1; the result is the lowest threshold that meets it. New
            rows may exceed it.
        coverage: lowest share of rows to answer, 0..1; the result is the highest threshold that meets it.

    Returns:
        The threshold (if no row can be answered infinite, or NaN where confidences are infinite), its coverage and its
        risk (0 if no row is answered).

    Raises:
        InputError: Both or none of `risk` and `coverage` are given, one is outside 0..1, or the arrays do not fit.

    Reference:
        Geifman and El-Yaniv, Selective Classification for Deep Neural Networks, 2017, arXiv:1705.08500.

    """
    confidence, correct = np.asarray(confidence, np.float64), whole(correct, 2, "correct").astype(bool)
    given = [share for share in (risk, coverage) if share is not None]
    if len(given) != 1 or not 0 <= given[0] <= 1:
        raise InputError(f"risk={risk}, coverage={coverage}: give one of the two, from 0 to 1")
    if confidence.shape != correct.shape or not confidence.size or np.isnan(confidence).any():
        raise InputError(
            f"confidence of shape {confidence.shape}, correct of shape {correct.shape}: must be [N] each, without NaN"
        )
    order = np.argsort(-confidence, kind="stable")
    last = _ends(confidence[order])
    answered, wrong = last + 1, np.cumsum(~correct[order])[last]
    kept = wrong <= given[0] * answered + 1e-12 if risk is not None else answered >= given[0] * len(order) - 1e-9
    fits = np.flatnonzero(kept)
    if not len(fits) or coverage == 0:
        return Reject(_above(confidence), 0.0, 0.0)
    k = fits[-1] if risk is not None else fits[0]
    return Reject(float(confidence[order][last[k]]), float(answered[k] / len(order)), float(wrong[k] / answered[k]))


def per_row(name: str, values: np.ndarray) -> np.ndarray:
    """Refuse values that are not `[N]`, values of several kinds, and NaN, which belongs to no class.

    Args:
        name: name of the values in messages.
        values: one value per row.

    Raises:
        InputError: The shape is not `[N]`, there is NaN, a value is missing, or texts are beside others.

    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise InputError(f"{name} of shape {values.shape}: must be [N], one value per row")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(f"{name}: {np.isnan(values).sum()} of {len(values)} are NaN; leave those rows out")
    texts = sum(isinstance(x, str) for x in values) if values.dtype == object else 0
    if values.dtype == object and any(x is None for x in values) or 0 < texts < len(values):
        raise InputError(f"{name}: a value is missing, or texts are beside other values; give all rows the same kind")
    return values


def whole(label: np.ndarray, num_classes: int | None, name: str = "label") -> np.ndarray:
    """Convert integers, bools or whole floats to int64 `[N]`; rounding other floats would change the class.

    Args:
        label: one value per row.
        num_classes: number of classes; None to accept any range.
        name: name of the values in messages.

    Raises:
        InputError: There are other numbers, or labels outside 0 to `num_classes` - 1.

    """
    label = per_row(name, label)
    if label.dtype.kind not in "biuf" or (label.dtype.kind == "f" and (label != np.round(label)).any()):
        shown = f"dtype {label.dtype}" if label.dtype.kind not in "biuf" else f"{label[label != np.round(label)][0]}"
        raise InputError(f"{name}: {shown} among the labels, which must be whole numbers from 0")
    if num_classes is not None and label.size and (label.min() < 0 or label.max() >= num_classes):
        bad = label.min() if label.min() < 0 else label.max()
        raise InputError(
            f"{name}: {float(bad):g} among the labels of {num_classes} classes, which are 0 to {num_classes - 1}; "
            "number them from 0"
        )
    return label.astype(np.int64)
