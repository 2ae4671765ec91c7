"""Scores from a confusion matrix, on the host; they equal those of scikit-learn with `zero_division=0`.

A matrix is `[K, K]`, with true classes as rows, or `[K, 2, 2]` for several labels per row: `[[tn, fp], [fn, tp]]` per
label. Averages are `"macro"`, the mean over the classes that appear in labels or predictions (over all classes of a
multi-label matrix); `"weighted"`, weighted by the rows of each class; `"micro"`, from the pooled counts of all classes;
and None, one score per class.
"""

from typing import Literal

import numpy as np

from jaxcnn.core.types import InputError

Average = Literal["macro", "micro", "weighted"]


def accuracy_of(matrix: np.ndarray) -> float:
    """Share of right answers, 0 if there are none; with a multi-label matrix, of right yes-or-no answers."""
    matrix = checked(matrix)
    hit = matrix[:, 0, 0] + matrix[:, 1, 1] if matrix.ndim == 3 else matrix.diagonal()
    return float(_ratio(hit.sum(), matrix.sum()))


def precision(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the predictions of a class that are right, 0 if it was never predicted; None: one score per class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, guessed))


def recall(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the rows of a class that were found, 0 if it has none; `average=None`: one score per class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, true))


def f1(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Harmonic mean of precision and recall; `average=None`: one score per class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(2 * hit, guessed + true))


def iou(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Intersection over union (Jaccard, 1901), 0 for an absent class; over pixels, its mean is the mIoU."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, guessed + true - hit))


def dice(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Dice coefficient (1945), twice the intersection over the sum of both sizes: the name of `f1` in segmentation."""
    return f1(matrix, average)


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Mean recall of the classes that have rows, from `[K, K]`; 0 without rows, which scikit-learn refuses."""
    matrix = checked(matrix, single=True)
    true = matrix.sum(1)
    return float(_ratio(_ratio(matrix.diagonal(), true).sum(), (true > 0).sum()))


def cohen_kappa(matrix: np.ndarray, weights: Literal["linear", "quadratic"] | None = None) -> float:
    """Agreement beyond chance (Cohen, 1960), 1 if perfect and 0 at chance.

    Args:
        matrix: `[K, K]`.
        weights: cost of confusing classes i and j, for ordered classes: `"linear"` `|i - j|` or `"quadratic"`; None:
            all equal.

    Returns:
        -1..1; 0 where it is undefined: no rows, or only one class (scikit-learn's `replace_undefined_by=0.0`).

    Raises:
        InputError: unknown weights, or not a confusion matrix.

    """
    matrix = checked(matrix, single=True)
    distance = np.abs(np.subtract.outer(np.arange(len(matrix)), np.arange(len(matrix)))).astype(np.float64)
    costs = {None: distance > 0, "linear": distance, "quadratic": distance**2}
    if weights not in costs:
        raise InputError(f"weights={weights!r}: must be None, 'linear' or 'quadratic'")
    chance = (costs[weights] * np.outer(matrix.sum(1), matrix.sum(0))).sum()
    return float(1 - matrix.sum() * (costs[weights] * matrix).sum() / chance) if chance else 0.0


def matthews(matrix: np.ndarray) -> float:
    """Correlation of truth and prediction, -1..1, from `[K, K]`; 0 where either is constant.

    Reference: Matthews, 1975; Gorodkin, 2004, for K classes.
    """
    matrix = checked(matrix, single=True)
    true, guessed, n = matrix.sum(1), matrix.sum(0), matrix.sum()
    spread = (n * n - (true * true).sum()) * (n * n - (guessed * guessed).sum())
    return float((n * matrix.trace() - (true * guessed).sum()) / np.sqrt(spread)) if spread else 0.0


def report(matrix: np.ndarray) -> dict[str, float]:
    """Return precision, recall and F1 with each average, such as `f1_macro`.

    A matrix `[K, K]` also gives `balanced_accuracy`, `cohen_kappa` and `matthews`.
    """
    scores = {"precision": precision, "recall": recall, "f1": f1}
    kinds: tuple[Average, ...] = ("macro", "micro", "weighted")
    out = {f"{name}_{kind}": float(score(matrix, kind)) for kind in kinds for name, score in scores.items()}
    if np.ndim(matrix) == 3:
        return out
    return out | {
        "balanced_accuracy": balanced_accuracy(matrix),
        "cohen_kappa": cohen_kappa(matrix),
        "matthews": matthews(matrix),
    }


def checked(matrix: np.ndarray, single: bool = False) -> np.ndarray:
    """Return a confusion matrix in float64; `single` requires one class per row, `[K, K]`.

    Raises:
        InputError: not a confusion matrix.

    """
    matrix = np.asarray(matrix, np.float64)
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    multilabel = matrix.ndim == 3 and matrix.shape[1:] == (2, 2)
    if not square and (single or not multilabel):
        several = "" if single else ", or [K, 2, 2] for several labels per row"
        raise InputError(f"matrix of shape {matrix.shape}: must be [K, K]{several}")
    sound = (matrix >= 0) & (matrix < np.inf)
    if not sound.all():
        raise InputError(f"matrix with {(~sound).sum()} entries that are negative, NaN or infinite: must be counts")
    return matrix


def tallied(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return hits, predictions and rows of each class, `[K]`, and which classes this data has."""
    matrix = checked(matrix)
    if matrix.ndim == 3:
        hit, guessed, true = matrix[:, 1, 1], matrix[:, :, 1].sum(1), matrix[:, 1].sum(1)
        return hit, guessed, true, np.ones(len(matrix), bool)
    hit, guessed, true = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    seen = (guessed + true) > 0  # a class in neither labels nor predictions does not belong to this data
    return hit, guessed, true, seen


def _score(matrix: np.ndarray, average: Average | None, score) -> float | np.ndarray:
    hit, guessed, true, seen = tallied(matrix)
    if average == "micro":
        return float(score(hit.sum(), guessed.sum(), true.sum()))
    each = score(hit, guessed, true)
    if average is None:
        return each
    if average not in ("macro", "weighted"):
        raise InputError(f"average={average!r}: must be 'macro', 'micro', 'weighted' or None")
    weights = true if average == "weighted" else seen.astype(np.float64)
    return float(_ratio((each * weights).sum(), weights.sum()))


def _ratio(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)
