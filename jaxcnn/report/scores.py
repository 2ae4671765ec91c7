"""Scores of whole test sets on the host, as a report needs them: thresholds, areas, intervals, paired tests."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """Points of a ROC curve from (0, 0) to (1, 1)."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray


class PrecisionRecall(NamedTuple):
    """Points from recall 0 on, after a first one with precision 1."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


class RiskCoverage(NamedTuple):
    """Share of errors among the most confident rows, by which share of all they are."""

    coverage: np.ndarray
    risk: np.ndarray
    area: float


class Interval(NamedTuple):
    """A value on all rows, and its interval."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Rows that only one of two models has right, and the two-sided p-value of no difference."""

    only_a: int
    only_b: int
    p_value: float


def roc_curve(scores: np.ndarray, labels: np.ndarray) -> Roc:
    """True against false positive rate at every threshold, rows with equal scores together.

    Args:
        scores: `[N]`, higher for positives.
        labels: `[N]` of 0 and 1; rates are NaN where there are no negatives or no positives.

    """
    hits, misses, thresholds = _counts(scores, labels)
    with np.errstate(invalid="ignore"):
        return Roc(misses / misses[-1], hits / hits[-1], thresholds)


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half (Fawcett, 2006); NaN where the labels are all of one class."""
    fpr, tpr, _ = roc_curve(scores, labels)
    return float(np.trapezoid(tpr, fpr))


def pr_curve(scores: np.ndarray, labels: np.ndarray) -> PrecisionRecall:
    """Precision and recall at every threshold, from the highest on; recall is NaN without positives."""
    hits, misses, thresholds = _counts(scores, labels)
    with np.errstate(invalid="ignore"):
        precision = np.concatenate([[1.0], hits[1:] / (hits[1:] + misses[1:])])
        return PrecisionRecall(precision, hits / hits[-1], thresholds)


def pr_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision: precision weighed by the recall that each threshold adds, not interpolated; NaN without positives."""
    precision, recall, _ = pr_curve(scores, labels)
    return float((np.diff(recall) * precision[1:]).sum())


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Share of errors when only the most confident rows are answered (Geifman and El-Yaniv, 2017, arXiv:1705.08500).

    Args:
        confidence: `[N]`; rows that are equally sure are answered together.
        correct: bool `[N]`.

    """
    hits, misses, _ = _counts(confidence, correct)
    answered = (hits + misses)[1:]
    coverage, risk = answered / len(confidence), misses[1:] / answered
    return RiskCoverage(coverage, risk, float((risk * np.diff(coverage, prepend=0)).sum()))


def bootstrap_interval(
    statistic: Callable[..., float], *arrays: np.ndarray, samples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic over resampled rows (Efron, 1979); NaN where it is undefined in half of them or more."""
    rng, n = np.random.default_rng(seed), len(arrays[0])
    found = np.array([statistic(*(x[rows] for x in arrays)) for rows in (rng.integers(0, n, n) for _ in range(samples))])
    found, value = found[np.isfinite(found)], float(statistic(*arrays))
    if 2 * len(found) <= samples:
        return Interval(value, float("nan"), float("nan"))
    return Interval(value, *map(float, np.quantile(found, [(1 - level) / 2, (1 + level) / 2])))


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Exact two-sided paired test of two classifiers on the same rows (McNemar, 1947; Dietterich, 1998).

    Args:
        correct_a: bool `[N]`, whether the one is right.
        correct_b: bool `[N]`, whether the other is.

    """
    a, b = int((correct_a & ~correct_b).sum()), int((~correct_a & correct_b).sum())
    n, k = a + b, np.arange(min(a, b) + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # of the factorials
    tail = np.exp(logs[n] - logs[k] - logs[n - k] - n * np.log(2)).sum()
    return McNemar(a, b, float(min(1.0, 2 * tail)))


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many positives and negatives score at least each distinct value, falling, after a first point of none."""
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], np.asarray(labels, bool)[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits, zero = np.cumsum(labels)[last], np.zeros(1)
    return np.concatenate([zero, hits]), np.concatenate([zero, last + 1 - hits]), np.concatenate([[np.inf], scores[last]])
