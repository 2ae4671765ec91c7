"""How data are divided, weighed and decided on: splits that keep groups together, folds, thresholds, temperature, rejection.

Everything is NumPy on the host, a function of its arguments and a seed; splits are row numbers, for `data.take`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.data.splitting import stratified

Rows = tuple[np.ndarray, np.ndarray]


def grouped(label: np.ndarray, group: np.ndarray, fraction: float, seed: int) -> Rows:
    """Row numbers of a seeded split in which no group (speaker, patient, person) is in both parts: `(rest, cut)`, ascending.

    Groups are drawn one by one, the largest first among those of equal need, each into the part where it leaves the classes nearest
    to their shares. The cut comes as near to `fraction` as whole groups allow.

    Args:
        label: int `[N]`.
        group: `[N]`, anything that is equal within a group.
        fraction: share of the rows to cut, in (0, 1).
        seed: the same seed, the same split.

    Raises:
        InputError: `fraction` outside its range, arrays that do not fit, or fewer than two groups.

    """
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction}: must be above 0 and below 1")
    part = _deal(label, group, np.array([1 - fraction, fraction]), seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def kfold(label: np.ndarray, folds: int, seed: int, group: np.ndarray | None = None) -> list[Rows]:
    """Row numbers of k folds, stratified by class: `(rest, fold)` each; every row is in one fold, and no group in two.

    Args:
        label: `[N]`, anything that is equal within a class.
        folds: how many, at least 2.
        seed: the same seed, the same folds.
        group: `[N]`; rows of one group stay together. Without it each class is in every fold with the same number of rows, but for one.

    Raises:
        InputError: fewer than two folds, fewer rows or groups than folds, or labels that are not `[N]` or are NaN.

    """
    label = _per_row("label", label)
    found = len(label) if group is None else len(np.unique(group))
    if not 2 <= folds <= found:
        raise InputError(
            f"folds={folds}: must be at least 2, and at most the {found} {'rows' if group is None else 'groups'}"
        )
    if group is not None:
        part = _deal(label, group, np.full(folds, 1 / folds), seed)
    else:
        rng, part = np.random.default_rng(seed), np.empty(len(label), np.int64)
        order = np.concatenate([rng.permutation(np.flatnonzero(label == c)) for c in np.unique(label)])
        part[order] = (
            np.arange(len(label)) % folds
        )  # classes one after another, so that the folds are of one size as well
    return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(folds)]


def cross_validate(
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]], folds: Sequence[Rows]
) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation of what `measure(rows to learn from, rows to measure)` gives, over folds.

    The deviation is between folds, which share most of what they learn from: it is no standard error of the mean.

    Returns:
        Name to `{"mean", "deviation", "values"}`.

    """
    found = [measure(rest, fold) for rest, fold in folds]
    return {
        name: {"mean": float(np.mean(v)), "deviation": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0, "values": v}
        for name, v in ((name, [float(one[name]) for one in found]) for name in found[0])
    }


def class_weights(label: np.ndarray, num_classes: int, power: float = 1.0) -> np.ndarray:
    """Weights `[K]` for a loss, `count ** -power`, of which the rows' mean is 1: for `tasks.classification(class_weights=)`.

    Args:
        label: int `[N]`.
        num_classes: K.
        power: 1 weighs the classes alike, 0.5 half way, 0 the rows.

    Raises:
        InputError: a class without rows, or labels that are not whole numbers of 0 to `num_classes` - 1.

    """
    count = _counts(_whole(label, num_classes), num_classes)
    raw = count.astype(np.float64) ** -power
    return raw * count.sum() / (raw * count).sum()


def balanced(label: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Row numbers in which every class is as frequent as the most frequent: its rows again and again, each as often but for one.

    The order is mixed; `data.take(balanced(...))` is a training part. Rows of rare classes repeat, so measure on other rows.

    Raises:
        InputError: a class without rows, or labels that are not whole numbers of 0 to `num_classes` - 1.

    """
    label = _whole(label, num_classes)
    most, rng = _counts(label, num_classes).max(), np.random.default_rng(seed)
    mine = (np.flatnonzero(label == c) for c in range(num_classes))
    each = [np.concatenate([rng.permutation(rows) for _ in range(-(-most // len(rows)))])[:most] for rows in mine]
    return rng.permutation(np.concatenate(each))


class Threshold(NamedTuple):
    """A threshold, and what it is worth on the rows that it was chosen on: rows at or above it are called positive."""

    threshold: float
    value: float


def best_threshold(score: np.ndarray, label: np.ndarray, cost: tuple[float, float] | None = None) -> Threshold:
    """Choose a threshold on validation rows: the highest F1, or the lowest mean cost.

    Args:
        score: `[N]`, higher for positives.
        label: `[N]` of 0 and 1.
        cost: of a false positive and of a false negative; None for F1.

    Returns:
        The threshold, midway between two scores that occur (infinite if none is to be called positive), and its F1 or mean cost.

    Raises:
        InputError: no rows, scores that are NaN, labels other than 0 and 1 or of one class alone, or a cost that is negative.

    """
    score, label = np.asarray(score, np.float64), _whole(label, 2).astype(bool)
    if score.shape != label.shape or not score.size or np.isnan(score).any():
        raise InputError(
            f"scores of shape {score.shape}, labels of shape {label.shape}: must be [N] each, at least one, without NaN"
        )
    if label.all() or not label.any():
        raise InputError(f"labels: all {label.size} are {int(label[0])}; a threshold needs rows of both classes")
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    edges = np.append(score[order][last], -np.inf)
    hits, called = np.append(0, np.cumsum(label[order])[last]), np.append(0, last + 1)
    if cost is None:
        value = 2 * hits / (called + label.sum())
        k = int(value.argmax())
    else:
        if min(cost) < 0:
            raise InputError(f"cost={cost}: must not be negative")
        value = (cost[0] * (called - hits) + cost[1] * (label.sum() - hits)) / len(label)
        k = int(value.argmin())
    if k == 0:
        return Threshold(np.inf, float(value[0]))
    middle = edges[k - 1] if np.isinf(edges[k]) else (edges[k - 1] + edges[k]) / 2
    return Threshold(float(middle), float(value[k]))


def temperature(logits: np.ndarray, label: np.ndarray, steps: int = 100) -> float:
    """Temperature T for which the log loss of `logits / T` on validation rows is smallest (Guo et al., 2017, arXiv:1706.04599).

    The log loss is convex in 1/T, so Newton's method, kept between what is too low and too high, finds the only minimum. No class changes.

    Args:
        logits: `[N, K]`, or `[N, 1]` of a sigmoid head.
        label: int `[N]`.
        steps: at most.

    Returns:
        T; above 1 where the logits were too sure.

    Raises:
        InputError: shapes that do not fit, logits that are not finite, labels that are not whole numbers of 0 to K - 1, or no smallest
            loss: all rows right (or as good as constant).

    """
    z = np.asarray(logits, np.float64)
    label = _whole(label, max(z.shape[-1], 2) if z.ndim == 2 else None)
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
    b, low, high = 1.0, 0.0, np.inf  # 1 / T, and what it is between
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
    """Answer rows with at least this confidence: coverage is their share, risk the share of errors among them."""

    threshold: float
    coverage: float
    risk: float


def reject(
    confidence: np.ndarray, correct: np.ndarray, *, risk: float | None = None, coverage: float | None = None
) -> Reject:
    """Choose, on validation rows, below which confidence not to answer (Geifman and El-Yaniv, 2017, arXiv:1705.08500).

    Args:
        confidence: `[N]`.
        correct: bool `[N]`.
        risk: most errors among the answered rows: the lowest threshold that keeps to it. It holds for these rows; on new ones it may
            be exceeded.
        coverage: share of rows to answer: the highest threshold that answers at least so many.

    Returns:
        The threshold, infinite if no row can be answered; its coverage and risk (0 of no rows).

    Raises:
        InputError: not exactly one of `risk` and `coverage`, one outside 0..1, or arrays that do not fit.

    """
    confidence, correct = np.asarray(confidence, np.float64), _whole(correct, 2, "correct").astype(bool)
    given = [share for share in (risk, coverage) if share is not None]
    if len(given) != 1 or not 0 <= given[0] <= 1:
        raise InputError(f"risk={risk}, coverage={coverage}: give one of the two, from 0 to 1")
    if confidence.shape != correct.shape or not confidence.size or np.isnan(confidence).any():
        raise InputError(
            f"confidence of shape {confidence.shape}, correct of shape {correct.shape}: must be [N] each, without NaN"
        )
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)
    answered, wrong = last + 1, np.cumsum(~correct[order])[last]
    kept = wrong <= given[0] * answered + 1e-12 if risk is not None else answered >= given[0] * len(order) - 1e-9
    fits = np.flatnonzero(kept)
    if not len(fits) or coverage == 0:
        return Reject(float("inf"), 0.0, 0.0)
    k = fits[-1] if risk is not None else fits[0]
    return Reject(float(confidence[order][last[k]]), float(answered[k] / len(order)), float(wrong[k] / answered[k]))


def _deal(label: np.ndarray, group: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Part `[N]` of every row: whole groups, largest first, each to where the rows of each class are then nearest to the shares."""
    label, group = _per_row("label", label), _per_row("group", group)
    if label.ndim != 1 or group.shape != label.shape or not len(label):
        raise InputError(
            f"labels of shape {label.shape}, groups of shape {group.shape}: must be [N] each, at least one row"
        )
    names, place = np.unique(group, return_inverse=True)
    if len(names) < len(shares):
        raise InputError(f"group: only {len(names)} different values; {len(shares)} parts need at least as many groups")
    kinds = np.unique(label, return_inverse=True)[1]
    count = np.zeros((len(names), kinds.max() + 1))
    np.add.at(count, (place, kinds), 1)
    rng, have, part = (
        np.random.default_rng(seed),
        np.zeros((len(shares), count.shape[1])),
        np.zeros(len(names), np.int64),
    )
    total, left = count.sum(0), len(names)
    for g in np.lexsort([rng.random(len(names)), -count.sum(1)]):
        empty = np.flatnonzero(have.sum(1) == 0)
        open_parts = empty if len(empty) == left else np.arange(len(shares))  # no part stays without a group
        # how far all parts are from their shares, class by class, if this one takes the group; the others are as they are
        want = shares[:, None] * total
        gain = (((have + count[g] - want) ** 2 - (have - want) ** 2) / np.maximum(total, 1) / shares[:, None]).sum(1)
        k = open_parts[gain[open_parts].argmin()]
        part[g], left = k, left - 1
        have[k] += count[g]
    return part[place]


def _per_row(name: str, values: np.ndarray) -> np.ndarray:
    """Refuse what has not one value per row, and NaN, which equals nothing and would be in no class."""
    values = np.asarray(values)
    if values.ndim != 1:
        raise InputError(f"{name} of shape {values.shape}: must be [N], one value per row")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(f"{name}: {np.isnan(values).sum()} of {len(values)} are NaN; leave those rows out")
    return values


def _whole(label: np.ndarray, num_classes: int | None, name: str = "label") -> np.ndarray:
    """Labels as int64 `[N]`, from integers, bools, or floats that are whole numbers; anything else would be another class."""
    label = _per_row(name, label)
    if label.dtype.kind not in "biuf" or (label.dtype.kind == "f" and (label != np.round(label)).any()):
        shown = f"dtype {label.dtype}" if label.dtype.kind not in "biuf" else f"{label[label != np.round(label)][0]}"
        raise InputError(f"{name}: {shown} among the labels, which must be whole numbers from 0")
    if num_classes is not None and label.size and (label.min() < 0 or label.max() >= num_classes):
        bad = label.min() if label.min() < 0 else label.max()
        raise InputError(
            f"{name}: {float(bad):g} among the labels of {num_classes} classes, which are 0 to {num_classes - 1}; number them from 0"
        )
    return label.astype(np.int64)


def _counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    count = np.bincount(label, minlength=num_classes)
    if not count.all():
        raise InputError(f"label: no row is of class {int(count.argmin())}; leave the class out, or give it rows")
    return count


__all__ = [
    "Reject", "Threshold", "balanced", "best_threshold", "class_weights", "cross_validate", "grouped", "kfold", "reject", "stratified",
    "temperature",
]  # fmt: skip
