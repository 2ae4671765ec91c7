"""Scores from a confusion matrix, on the host, equal to scikit-learn with `zero_division=0`.

A matrix is `[K, K]` (rows the truth), or `[K, 2, 2]` for labels that several of a row may carry: `[[tn, fp], [fn, tp]]` each.
Averages: `"macro"`, the mean over the classes that are in the labels or in the predictions (over all of a multi-label matrix);
`"weighted"`, weighted by the rows of each class; `"micro"`, from the counts of all classes together; None, one a class.
"""

from typing import Literal

import numpy as np

from jaxcnn.core.types import InputError

Average = Literal["macro", "micro", "weighted"]


def accuracy_of(matrix: np.ndarray) -> float:
    """Share of right answers, 0 of none; of a multi-label matrix, of right yes-or-no answers."""
    matrix = checked(matrix)
    hit = matrix[:, 0, 0] + matrix[:, 1, 1] if matrix.ndim == 3 else matrix.diagonal()
    return float(_ratio(hit.sum(), matrix.sum()))


def precision(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the predictions of a class that are right, 0 where it was never predicted; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, guessed))


def recall(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Share of the rows of a class that were found, 0 where it has none; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, true))


def f1(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Harmonic mean of precision and recall; `average=None` gives one a class."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(2 * hit, guessed + true))


def iou(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Intersection over union (Jaccard, 1901), 0 where a class is nowhere; over pixels, the mean is the mIoU of segmentation."""
    return _score(matrix, average, lambda hit, guessed, true: _ratio(hit, guessed + true - hit))


def dice(matrix: np.ndarray, average: Average | None = "macro") -> float | np.ndarray:
    """Dice coefficient (1945), twice the intersection over the sum of both sets: the name of `f1` in segmentation."""
    return f1(matrix, average)


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Mean recall of the classes that have rows, 0 of none (scikit-learn warns of other classes, and refuses no rows); `[K, K]`."""
    matrix = checked(matrix, single=True)
    true = matrix.sum(1)
    return float(_ratio(_ratio(matrix.diagonal(), true).sum(), (true > 0).sum()))


def cohen_kappa(matrix: np.ndarray, weights: Literal["linear", "quadratic"] | None = None) -> float:
    """Agreement beyond chance (Cohen, 1960), 1 if perfect and 0 at chance.

    Args:
        matrix: `[K, K]`.
        weights: how much worse a more distant class is, for classes in order: `|i - j|` or its square; None for all alike.

    Returns:
        -1..1; 0 where it is undefined, with no rows or one class alone (scikit-learn's `replace_undefined_by=0.0`).

    Raises:
        InputError: other weights, or no confusion matrix.

    """
    matrix = checked(matrix, single=True)
    distance = np.abs(np.subtract.outer(np.arange(len(matrix)), np.arange(len(matrix)))).astype(np.float64)
    costs = {None: distance > 0, "linear": distance, "quadratic": distance**2}
    if weights not in costs:
        raise InputError(f"weights={weights!r}: must be None, 'linear' or 'quadratic'")
    chance = (costs[weights] * np.outer(matrix.sum(1), matrix.sum(0))).sum()
    return float(1 - matrix.sum() * (costs[weights] * matrix).sum() / chance) if chance else 0.0


def matthews(matrix: np.ndarray) -> float:
    """Correlation of truth and prediction (Matthews, 1975; Gorodkin, 2004, for K classes), -1..1; 0 where either is constant; `[K, K]`."""
    matrix = checked(matrix, single=True)
    true, guessed, n = matrix.sum(1), matrix.sum(0), matrix.sum()
    spread = (n * n - (true * true).sum()) * (n * n - (guessed * guessed).sum())
    return float((n * matrix.trace() - (true * guessed).sum()) / np.sqrt(spread)) if spread else 0.0


def report(matrix: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 with each average, like `f1_macro`; of `[K, K]` also `balanced_accuracy`, `cohen_kappa`, `matthews`."""
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
    """Return a confusion matrix in float64; `single`: one class a row, so `[K, K]`.

    Raises:
        InputError: no confusion matrix.

    """
    matrix = np.asarray(matrix, np.float64)
    square, multilabel = (
        matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1],
        matrix.ndim == 3 and matrix.shape[1:] == (2, 2),
    )
    if not square and (single or not multilabel):
        raise InputError(
            f"matrix of shape {matrix.shape}: must be [K, K]{'' if single else ', or [K, 2, 2] for several labels a row'}"
        )
    sound = (matrix >= 0) & (matrix < np.inf)
    if not sound.all():
        raise InputError(f"matrix with {(~sound).sum()} entries below 0 or NaN or infinite: must be counts")
    return matrix


def tallied(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return hits, predictions and rows of each class, `[K]`, and which classes are in this data."""
    matrix = checked(matrix)
    if matrix.ndim == 3:
        hit, guessed, true = matrix[:, 1, 1], matrix[:, :, 1].sum(1), matrix[:, 1].sum(1)
        return hit, guessed, true, np.ones(len(matrix), bool)
    hit, guessed, true = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
    return (
        hit,
        guessed,
        true,
        (guessed + true) > 0,
    )  # a class in neither the labels nor the predictions is no class of this data


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
