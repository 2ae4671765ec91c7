"""Measure a test set from its outputs and labels: everything that a report contains, as plain values for JSON."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import metrics
from jaxcnn.core.types import InputError, add, compute
from jaxcnn.metrics import bootstrap_interval, pr_auc, pr_curve, risk_coverage, roc_auc, roc_curve
from jaxcnn.metrics.probabilities import own_log_loss
from jaxcnn.parallel.compile import host
from jaxcnn.report.slices import by_group

EXAMPLES, EXPLAINED, POINTS = 12, 4, 101  # examples shown per kind; rows explained; points kept per curve
MATRIX, PAIRS = 100, 20  # most classes with a full confusion matrix; confused pairs listed
RESAMPLED, SAMPLES = 2 * 10**5, 200  # most rows times classes with intervals of areas; samples per interval
BINS, AT_ONCE = 15, 2**22  # bins of confidence; logits per call of the metrics


def probabilities(logits: np.ndarray, head: str = "softmax") -> np.ndarray:
    """Return probabilities `[N, K]` in float64, so that confident rows do not tie at 1; a sigmoid logit gives two."""
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

    All values come from `jaxcnn.metrics`. Rows with an invalid label do not count; a note gives their number.

    Args:
        logits: `[N, K]`, or `[N, 1]` with the sigmoid head.
        label: int `[N]`.
        classes: names in order of label.
        head: `"softmax"` or `"sigmoid"`.
        groups: dict from name to column `[N]`, by which groups of rows are compared.

    Returns:
        `"metrics"` and `"intervals"` by name, `"per_class"`, `"confusion"` (up to 100 classes), `"confused"`, `"roc"`,
        `"pr"`, `"reliability"`, `"risk_coverage"`, `"slices"`, `"chosen"` (rows to show) and `"notes"` on undefined
        values.

    Raises:
        InputError: several labels per row, outputs that are not finite or have the wrong shape, no row with a valid
            label, or columns that do not fit.

    """
    logits, label, rows_of = _checked(logits, np.asarray(label), len(classes), head)
    groups = {
        name: np.asarray(column)[rows_of] if len(column) == len(rows_of) else column
        for name, column in (groups or {}).items()
    }
    notes = _unlabelled(label, rows_of)
    logits, label, at = logits[rows_of], label[rows_of], np.flatnonzero(rows_of)
    p = probabilities(logits, head)
    predicted = p.argmax(-1)
    correct, sure = predicted == label, p.max(-1)
    matrix = np.bincount(label * len(classes) + predicted, minlength=len(classes) ** 2).reshape(len(classes), -1)
    curves = [_curves(p[:, k], label == k, name, notes) for k, name in enumerate(classes)]
    rows = _per_class(matrix, classes, curves)
    figures = _figures(logits, label)
    log_loss = own_log_loss(jnp.asarray(logits), jnp.asarray(label))
    values, intervals = _values(figures, p, label, predicted, matrix, log_loss)
    coverage, risk, _ = risk_coverage(sure, correct)
    return {
        "metrics": values, "intervals": intervals, "per_class": rows, "confused": _confused(matrix, classes),
        "confusion": matrix.tolist() if len(classes) <= MATRIX else None, **_shown(curves, classes),
        "reliability": _bins(figures), "risk_coverage": _thin(coverage, risk),
        "slices": [by_group(predicted, label, column, classes, name) for name, column in groups.items()],
        "chosen": _chosen(predicted, label, sure, classes, at), "notes": notes,
    }  # fmt: skip


def _checked(logits: Any, label: np.ndarray, classes: int, head: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits in float32, labels, and which rows have a valid label."""
    if head == "multilabel" or label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
        raise InputError(
            f"head {head!r}, labels of shape {label.shape}: reports need a classifier with one label per row"
        )
    with np.errstate(over="ignore"):  # values too large for float32 become infinite and are refused below
        logits = np.asarray(logits, np.float32)
    wanted = (len(label), 1 if head == "sigmoid" else classes)
    if logits.shape != wanted or classes < 2 or head == "sigmoid" and classes != 2:
        raise InputError(
            f"logits of shape {logits.shape} for {len(label)} labels of {classes} classes, head {head!r}: "
            f"must be {wanted}"
        )
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise InputError(f"{broken} of {len(logits)} test rows have outputs that are not finite; check the weights")
    known = (label >= 0) & (label < classes)
    if not known.any():
        raise InputError(
            f"labels: none of the {len(label)} test rows has a label from 0 to {classes - 1}, so there is nothing to "
            "measure"
        )
    return logits, label, known


def _unlabelled(label: np.ndarray, known: np.ndarray) -> list[str]:
    others = np.unique(label[~known])
    if not len(others):
        return []
    some = ", ".join(map(str, others[:5].tolist())) + (" and others" if len(others) > 5 else "")
    return [f"{(~known).sum()} of {len(label)} test rows have an invalid label ({some}) and do not count."]


@jax.jit
def _sums(logits: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    measured = {
        "accuracy": metrics.accuracy, "brier": metrics.brier, "log_loss": metrics.log_loss,
        "calibration": metrics.calibration(BINS),
    }  # fmt: skip
    return {name: metric(logits, batch) for name, metric in measured.items()}


def _figures(logits: np.ndarray, label: np.ndarray) -> dict[str, Any]:
    """Return the library's metrics over all rows, added in float64 as in `evaluate`."""
    size = min(max(AT_ONCE // logits.shape[1], 1), len(label))

    def sums(start: int) -> dict[str, Any]:
        part, own = logits[start : start + size], label[start : start + size]
        missing = size - len(own)
        mask = (np.arange(size) < len(own)).astype(np.float32)
        rows = {"label": np.pad(own, (0, missing)).astype(np.int32), "row_mask": mask}
        return host(_sums(np.pad(part, ((0, missing), (0, 0))), rows))

    return compute(functools.reduce(add, map(sums, range(0, len(label), size))))


def _bins(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calibration error, `"ece"`, and `"bins"`: low, high, count, confidence, accuracy of non-empty ones."""
    each = zip(*(x.tolist() for x in figures["reliability"]), strict=True)
    rows = [
        {"low": k / BINS, "high": (k + 1) / BINS, "count": count, "confidence": confidence, "accuracy": accuracy}
        for k, (count, confidence, accuracy) in enumerate(each)
        if count
    ]
    return {"ece": figures["ece"], "bins": rows}


def _curves(score: np.ndarray, positive: np.ndarray, name: str, notes: list[str]) -> dict[str, Any]:
    """Return ROC and precision-recall of a class against the rest; None and a note where they are undefined."""
    if positive.all() or not positive.any():
        which = "every test row is" if positive.all() else "no test row is"
        notes.append(f"ROC and precision-recall of class {name} are undefined: {which} of this class.")
        return {"roc": None, "pr": None, "roc_auc": None, "pr_auc": None}
    if score.min() == score.max():
        notes.append(
            f"The scores of class {name} are all equal and separate nothing; the area of 0.5 is that of guessing."
        )
    fpr, tpr, _ = roc_curve(score, positive)
    precision, recall, _ = pr_curve(score, positive)
    areas = {"roc_auc": roc_auc(score, positive), "pr_auc": pr_auc(score, positive)}
    return {"roc": _thin(fpr, tpr), "pr": _thin(recall, precision), **areas}


def _thin(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """Thin out the points of a curve: keep all if they are few, else those nearest to an even spacing along it."""
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
    """Return the most frequent confusions."""
    off = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    return [
        {"true": classes[i], "predicted": classes[j], "count": int(off[i, j]), "of": int(matrix[i].sum())}
        for i, j in pairs
    ]


def _shown(curves: list[dict[str, Any]], classes: Sequence[str], most: int = 4) -> dict[str, Any]:
    """Return up to `most` curves with the smallest areas, preferably below 1; for two classes, that of class 1."""
    out = {}
    for kind in ("roc", "pr"):
        area = {k: c[f"{kind}_auc"] for k, c in enumerate(curves) if c[kind] is not None}
        chosen = sorted(area, key=lambda k: area[k])[:most]  # noqa: B023
        chosen = [k for k in chosen if area[k] < 1] or chosen[:1]
        chosen = [k for k in area if k == 1] if len(classes) == 2 else chosen
        out[kind] = [{"class": classes[k], "area": area[k], "points": curves[k][kind]} for k in chosen]
    return out


def _values(
    figures: Mapping[str, Any],
    p: np.ndarray,
    label: np.ndarray,
    predicted: np.ndarray,
    matrix: np.ndarray,
    log_loss: Any,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Return the headline metrics and their 95 % intervals: Wilson's for accuracy, bootstrap for the others."""
    n, k = p.shape

    def f1(a, b):
        return float(metrics.f1(np.bincount(a * k + b, minlength=k * k).reshape(k, k)))

    alone = matrix.sum(1).max() == n  # with one class only, areas are undefined
    values = {
        "count": n,
        "accuracy": figures["accuracy"],
        "balanced_accuracy": metrics.balanced_accuracy(matrix),
        "f1_macro": metrics.f1(matrix),
        "log_loss": figures["log_loss"],
        "ece": figures["ece"],
        "brier": figures["brier"],
        "roc_auc_macro": None if alone else roc_auc(p, label),
        "pr_auc_macro": None if alone else pr_auc(p, label),
    }
    intervals = {
        "accuracy": list(metrics.wilson_interval(values["accuracy"], n)),
        "log_loss": bootstrap_interval(lambda x: x.mean(), np.asarray(log_loss, np.float64), samples=SAMPLES),
    }
    if k <= MATRIX:
        intervals["f1_macro"] = bootstrap_interval(f1, label, predicted, samples=SAMPLES)
    if n * k <= RESAMPLED and k <= MATRIX and values["roc_auc_macro"] is not None:
        intervals["roc_auc_macro"] = bootstrap_interval(lambda *rows: float(roc_auc(*rows)), p, label, samples=SAMPLES)
    return values, {name: list(x[-2:]) for name, x in intervals.items() if np.isfinite(x[-1])}


def _chosen(
    predicted: np.ndarray, label: np.ndarray, sure: np.ndarray, classes: Sequence[str], at: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Return rows to look at: the most confident mistakes and the least confident hits; `at` maps to data rows."""
    wrong, right = np.flatnonzero(predicted != label), np.flatnonzero(predicted == label)
    kinds = {
        "mistakes": wrong[np.argsort(-sure[wrong], kind="stable")][:EXAMPLES],
        "doubtful": right[np.argsort(sure[right], kind="stable")][:EXAMPLES],
    }

    def entry(i):
        true, guess = classes[int(label[i])], classes[int(predicted[i])]
        return {"row": int(at[i]), "true": true, "predicted": guess, "confidence": float(sure[i])}

    return {kind: [entry(i) for i in rows] for kind, rows in kinds.items()}
