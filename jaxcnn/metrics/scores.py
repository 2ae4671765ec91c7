"""Scores from a confusion matrix `[K, K]` (rows the truth), on the host; equal to scikit-learn with `zero_division=0`."""

import math
from typing import Literal

import numpy as np

Average = Literal["macro", "micro", "weighted"]


def precision(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the predictions of a class that are right, 0 where it was never predicted; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, guessed))


def recall(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the rows of a class that were found, 0 where it has none; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, true))


def f1(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Harmonic mean of precision and recall; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(2 * hit, guessed + true))


def report(matrix: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 with each average, named like `f1_macro`."""
    scores = {"precision": precision, "recall": recall, "f1": f1}
    return {f"{name}_{kind}": score(matrix, kind) for kind in ("macro", "micro", "weighted") for name, score in scores.items()}


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a share of `count` rows (Wilson, 1927); `z=1.96` for 95 %."""
    if count == 0:
        return 0.0, 1.0
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def _score(matrix: np.ndarray, average: Average | None, score) -> float | np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    hit, guessed, true = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    if average == "micro":
        return float(score(hit.sum(), guessed.sum(), true.sum()))
    each = score(hit, guessed, true)
    if average is None:
        return each
    seen = (guessed + true) > 0  # a class in neither the labels nor the predictions is no class of this data
    weights = true if average == "weighted" else seen.astype(np.float64)
    return float(_ratio((each * weights).sum(), weights.sum()))


def _ratio(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)
