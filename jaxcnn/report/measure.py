"""From outputs and labels of a test set to plain values: everything that a report says of it, ready for JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn import metrics
from jaxcnn.metrics import bootstrap_interval, pr_auc, pr_curve, risk_coverage, roc_auc, roc_curve
from jaxcnn.report.slices import by_group
from jaxcnn.types import InputError

EXAMPLES, POINTS = 12, 101  # rows shown of each kind; points kept of a curve
MATRIX, PAIRS = 100, 20  # classes up to which the whole matrix is kept; pairs of classes listed
RESAMPLED, SAMPLES = 2 * 10**5, 200  # rows times classes up to which areas get an interval; samples for each


def probabilities(logits: np.ndarray, head: str = "softmax") -> np.ndarray:
    """Probabilities `[N, K]` in float64, so that sure rows do not tie at 1; of one sigmoid logit `[N, 1]` both classes."""
    logits = np.asarray(logits, np.float64)
    if head == "sigmoid":
        logits = np.concatenate([np.zeros_like(logits), logits], -1)
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def measure(
    logits: np.ndarray,
    label: np.ndarray,
    classes: Sequence[str],
    *,
    head: str = "softmax",
    groups: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Measure a test set.

    Args:
        logits: `[N, K]`, or `[N, 1]` with the sigmoid head.
        label: int `[N]`.
        classes: names in order of label.
        head: `"softmax"` or `"sigmoid"`.
        groups: columns `[N]` by name, to compare groups of rows by.

    Returns:
        `"metrics"` and `"intervals"` by name, `"per_class"`, `"confusion"` (up to 100 classes), `"confused"`, `"roc"`, `"pr"`,
        `"reliability"`, `"risk_coverage"`, `"slices"`, `"chosen"` (rows to show) and `"notes"` on what is undefined.

    Raises:
        InputError: several labels a row, outputs that are not finite, or columns that do not fit.

    """
    label = np.asarray(label)
    if head == "multilabel" or label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise InputError(f"head {head!r}, labels of shape {label.shape}: reports are of classifiers with one label a row")
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise InputError(f"{broken} of {len(logits)} test rows have outputs that are not finite numbers; the weights are broken")
    p, notes = probabilities(logits, head), []
    predicted = p.argmax(-1)
    correct, sure = predicted == label, p.max(-1)
    matrix = np.bincount(label * len(classes) + predicted, minlength=len(classes) ** 2).reshape(len(classes), -1)
    curves = [_curves(p[:, k], label == k, name, notes) for k, name in enumerate(classes)]
    rows = _per_class(matrix, classes, curves)
    values, intervals = _values(p, label, predicted, matrix, curves)
    coverage, risk, _ = risk_coverage(sure, correct)
    return {
        "metrics": values, "intervals": intervals, "per_class": rows, "confused": _confused(matrix, classes),
        "confusion": matrix.tolist() if len(classes) <= MATRIX else None, **_shown(curves, classes),
        "reliability": reliability(sure, correct), "risk_coverage": _thin(coverage, risk),
        "slices": [by_group(predicted, label, column, classes, name) for name, column in (groups or {}).items()],
        "chosen": _chosen(predicted, label, sure, classes), "notes": notes,
    }  # fmt: skip


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> dict[str, Any]:
    """Expected calibration error over bins of equal width (Guo et al., 2017, arXiv:1706.04599).

    Args:
        confidence: `[N]` in 0..1, the probability of the predicted class.
        correct: bool `[N]`.
        bins: how many.

    Returns:
        `"ece"`, and `"bins"`: `{"low", "high", "count", "confidence", "accuracy"}` of each that has rows.

    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    rows, ece = [], 0.0
    for k in np.unique(place).tolist():
        here = place == k
        sure, right, n = float(confidence[here].mean()), float(correct[here].mean()), int(here.sum())
        rows.append({"low": k / bins, "high": (k + 1) / bins, "count": n, "confidence": sure, "accuracy": right})
        ece += n / len(confidence) * abs(sure - right)
    return {"ece": ece, "bins": rows}


def _curves(score: np.ndarray, positive: np.ndarray, name: str, notes: list[str]) -> dict[str, Any]:
    """ROC and precision-recall of a class against the rest; what is undefined is None and said."""
    if positive.all() or not positive.any():
        which = "every test row is" if positive.all() else "no test row is"
        notes.append(f"ROC and precision-recall of class {name} are undefined: {which} of it.")
        return {"roc": None, "pr": None, "roc_auc": None, "pr_auc": None}
    if score.min() == score.max():
        notes.append(f"The scores of class {name} are all equal: they tell nothing apart, and the area of 0.5 is that of guessing.")
    fpr, tpr, _ = roc_curve(score, positive)
    precision, recall, _ = pr_curve(score, positive)
    areas = {"roc_auc": roc_auc(score, positive), "pr_auc": pr_auc(score, positive)}
    return {"roc": _thin(fpr, tpr), "pr": _thin(recall, precision), **areas}


def _thin(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """At most so many points of a curve: its corners where they are few, else those nearest to an even spacing along it."""
    if len(x) > POINTS:
        along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
        keep = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)).clip(0, len(x) - 1))
        x, y = x[keep], y[keep]
    return [[round(float(a), 5), round(float(b), 5)] for a, b in zip(x, y, strict=True)]


def _per_class(matrix: np.ndarray, classes: Sequence[str], curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    scores = {name: getattr(metrics, name)(matrix, None) for name in ("precision", "recall", "f1")}
    rows = []
    for k, name in enumerate(classes):
        row = {"class": name, "count": int(matrix[k].sum()), **{key: float(v[k]) for key, v in scores.items()}}
        rows.append(row | {key: curves[k][key] for key in ("roc_auc", "pr_auc")})
    return rows


def _confused(matrix: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List the most frequent confusions."""
    off = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    return [{"true": classes[i], "predicted": classes[j], "count": int(off[i, j]), "of": int(matrix[i].sum())} for i, j in pairs]


def _shown(curves: list[dict[str, Any]], classes: Sequence[str], most: int = 4) -> dict[str, Any]:
    """Curves of the classes with the smallest areas, four at most, and none of 1 beside others; of two classes that of the second."""
    out = {}
    for kind in ("roc", "pr"):
        area = {k: c[f"{kind}_auc"] for k, c in enumerate(curves) if c[kind] is not None}
        chosen = sorted(area, key=lambda k: area[k])[:most]  # noqa: B023
        chosen = [k for k in chosen if area[k] < 1] or chosen[:1]
        chosen = [k for k in area if k == 1] if len(classes) == 2 else chosen
        out[kind] = [{"class": classes[k], "area": area[k], "points": curves[k][kind]} for k in chosen]
    return out


def _values(p: np.ndarray, label: np.ndarray, predicted: np.ndarray, matrix: np.ndarray, curves: list[dict[str, Any]]) -> Any:
    """Headline figures, and their 95 % intervals: Wilson's for accuracy, else of resampled rows."""
    n, k = p.shape
    correct, sure, own = predicted == label, p.max(-1), p[np.arange(n), label]
    one_hot = np.eye(k)[label] if n * k <= 10**7 else None
    present = matrix.sum(1) > 0
    f1 = lambda a, b: metrics.f1(np.bincount(a * k + b, minlength=k * k).reshape(k, k))  # noqa: E731
    log_loss = -np.log(np.maximum(own, 1e-300))
    values = {
        "count": n, "accuracy": float(correct.mean()), "balanced_accuracy": float(metrics.recall(matrix, None)[present].mean()),
        "f1_macro": metrics.f1(matrix), "log_loss": float(log_loss.mean()), "ece": reliability(sure, correct)["ece"],
        "brier": None if one_hot is None else float(np.square(p - one_hot).sum(-1).mean()),
    }  # fmt: skip
    for key in ("roc_auc", "pr_auc"):
        defined = [c[key] for c in curves if c[key] is not None]
        values[f"{key}_macro"] = float(np.mean(defined)) if defined else None
    intervals = {
        "accuracy": list(metrics.wilson_interval(values["accuracy"], n)),
        "log_loss": bootstrap_interval(lambda x: x.mean(), log_loss, samples=SAMPLES),
    }
    if k <= MATRIX:
        intervals["f1_macro"] = bootstrap_interval(f1, label, predicted, samples=SAMPLES)
    if n * k <= RESAMPLED and k <= MATRIX and values["roc_auc_macro"] is not None:
        known = [c for c in range(k) if curves[c]["roc_auc"] is not None]
        area = lambda a, b: np.mean([roc_auc(a[:, c], b == c) for c in known])  # noqa: E731
        intervals["roc_auc_macro"] = bootstrap_interval(area, p, label, samples=SAMPLES)
    return values, {name: list(x[-2:]) for name, x in intervals.items() if np.isfinite(x[-1])}


def _chosen(predicted: np.ndarray, label: np.ndarray, sure: np.ndarray, classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows to look at: wrong with the highest confidence, right with the lowest."""
    wrong, right = np.flatnonzero(predicted != label), np.flatnonzero(predicted == label)
    kinds = {
        "mistakes": wrong[np.argsort(-sure[wrong], kind="stable")][:EXAMPLES],
        "doubtful": right[np.argsort(sure[right], kind="stable")][:EXAMPLES],
    }
    entry = lambda i: {"row": int(i), "true": classes[label[i]], "predicted": classes[predicted[i]], "confidence": float(sure[i])}  # noqa: E731
    return {kind: [entry(i) for i in rows] for kind, rows in kinds.items()}
