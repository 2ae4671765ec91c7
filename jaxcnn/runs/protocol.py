"""Evaluation protocols: grouped splits, cross-validation, class weights, thresholds, calibration and rejection.

All functions run in NumPy on the host and depend only on their arguments. Splits are row numbers for `data.take`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, check_numbers, check_whole
from jaxcnn.data.splitting import stratified
from jaxcnn.runs.decisions import Reject, Threshold, best_threshold, per_row, reject, temperature, whole

Rows = tuple[np.ndarray, np.ndarray]


def grouped(label: np.ndarray, group: np.ndarray, fraction: float, seed: int) -> Rows:
    """Split the rows so that no group (speaker, patient, person) is in both parts.

    Groups are assigned one by one, the largest first, each to the part that brings the classes closest to their shares.
    The size of the second part is as close to `fraction` as whole groups allow.

    Args:
        label: class of each row, int `[N]`.
        group: group of each row, `[N]`, of any type that can be compared.
        fraction: share of the rows in the second part, in (0, 1).
        seed: seed of the split; the same seed gives the same split.

    Returns:
        `(rest, cut)`: row numbers of the two parts, ascending.

    Raises:
        InputError: `fraction` is outside its range, the arrays do not fit, or there are fewer than two groups.

    """
    check_numbers(fraction=fraction)
    if not 0 < fraction < 1:
        raise InputError(f"fraction={fraction}: must be above 0 and below 1")
    part = _deal(label, group, np.array([1 - fraction, fraction]), seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def kfold(label: np.ndarray, folds: int, seed: int, group: np.ndarray | None = None) -> list[Rows]:
    """Divide the rows into folds, stratified by class.

    Args:
        label: class of each row, `[N]`, of any type that can be compared.
        folds: number of folds, at least 2.
        seed: seed of the folds; the same seed gives the same folds.
        group: group of each row, `[N]`; rows of one group are in the same fold. Without groups, the numbers of rows
            that a class has in two folds differ by at most one.

    Returns:
        For each fold `(rest, fold)`: row numbers to train on and to evaluate on, ascending.

    Raises:
        InputError: There are fewer than two folds, or fewer rows or groups than folds; or the labels are not `[N]`, or
            have NaN.

    """
    check_whole("folds", folds)
    check_whole("seed", seed, 0)
    label = per_row("label", label)
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
        part[order] = np.arange(len(label)) % folds  # one count over all classes, so that the folds have equal sizes
    return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(folds)]


def cross_validate(
    measure: Callable[[np.ndarray, np.ndarray], dict[str, float]], folds: Sequence[Rows]
) -> dict[str, dict[str, Any]]:
    """Compute the mean and the standard deviation of metrics over folds.

    Folds share most of their training rows, so the standard deviation is not a standard error of the mean.

    Args:
        measure: function of the row numbers to train on and to evaluate on that returns a dict from metric to value.
        folds: folds from `kfold`.

    Returns:
        Dict from metric to `{"mean", "deviation", "values"}`.

    """
    found = [measure(rest, fold) for rest, fold in folds]
    if not found:
        raise InputError("folds: has none; make them with kfold")
    return {
        name: {"mean": float(np.mean(v)), "deviation": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0, "values": v}
        for name, v in ((name, [float(one[name]) for one in found]) for name in found[0])
    }


def class_weights(label: np.ndarray, num_classes: int, power: float = 1.0) -> np.ndarray:
    """Return class weights for `tasks.classification(class_weights=)`, proportional to `count ** -power`.

    The weights are scaled so that their mean over the rows is 1.

    Args:
        label: class of each row, int `[N]`.
        num_classes: number of classes, K.
        power: 1 gives each class the same total weight, 0 gives each row the same weight; values between are allowed.

    Returns:
        Float64 `[K]`.

    Raises:
        InputError: A class has no rows, or the labels are not whole numbers from 0 to `num_classes` - 1.

    """
    check_whole("num_classes", num_classes, 1)
    check_numbers(power=power)
    if not 0 <= power <= 1:
        raise InputError(f"power={power}: must lie in 0..1")
    count = _counts(whole(label, num_classes), num_classes)
    raw = count.astype(np.float64) ** -power
    return raw * count.sum() / (raw * count).sum()


def logit_adjustment(label: np.ndarray, num_classes: int, tau: float = 1.0) -> np.ndarray:
    """Return what `tasks.classification(logit_adjustment=)` adds to logits: `tau` times the log share of each class.

    Subtracted from the logits of a network that was trained without it, the same numbers have a similar effect.

    Args:
        label: class of each row, int `[N]`.
        num_classes: number of classes, K.
        tau: 1 suits the mean accuracy over classes, 0 changes nothing.

    Returns:
        Float64 `[K]`.

    Raises:
        InputError: `tau` is not a finite number of at least 0, a class has no rows, or the labels are not whole numbers
            from 0 to `num_classes` - 1.

    Reference:
        Menon et al., Long-tail learning via logit adjustment, 2020, arXiv:2007.07314.

    """
    check_numbers(tau=tau)
    if not 0 <= tau < float("inf"):
        raise InputError(f"tau={tau}: must be a number of at least 0")
    count = _counts(whole(label, num_classes), num_classes)
    return tau * np.log(count / count.sum())


def balanced(label: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Return row numbers that oversample each class to the size of the largest class.

    The numbers of times that two rows of a class occur differ by at most one. `data.take(balanced(...))` is a training
    part; rows of rare classes repeat, so evaluate on other rows.

    Args:
        label: class of each row, int `[N]`.
        num_classes: number of classes.
        seed: seed of the order, which is random.

    Raises:
        InputError: A class has no rows, or the labels are not whole numbers from 0 to `num_classes` - 1.

    """
    check_whole("seed", seed, 0)
    label = whole(label, num_classes)
    most, rng = _counts(label, num_classes).max(), np.random.default_rng(seed)
    mine = (np.flatnonzero(label == c) for c in range(num_classes))
    each = [np.concatenate([rng.permutation(rows) for _ in range(-(-most // len(rows)))])[:most] for rows in mine]
    return rng.permutation(np.concatenate(each))


def _deal(label: np.ndarray, group: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Assign whole groups to parts, the largest first, so that each class is close to the shares; part of each row."""
    check_whole("seed", seed, 0)
    label, group = per_row("label", label), per_row("group", group)
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
    rng, have = np.random.default_rng(seed), np.zeros((len(shares), count.shape[1]))
    part, total, left = np.zeros(len(names), np.int64), count.sum(0), len(names)
    for g in np.lexsort([rng.random(len(names)), -count.sum(1)]):
        empty = np.flatnonzero(have.sum(1) == 0)
        open_parts = empty if len(empty) == left else np.arange(len(shares))  # every part gets at least one group
        # change of the squared distance from the shares, summed over classes, if a part takes this group
        want = shares[:, None] * total
        gain = (((have + count[g] - want) ** 2 - (have - want) ** 2) / np.maximum(total, 1) / shares[:, None]).sum(1)
        k = open_parts[gain[open_parts].argmin()]
        part[g], left = k, left - 1
        have[k] += count[g]
    return part[place]


def _counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    count = np.bincount(label, minlength=num_classes)
    if not count.all():
        raise InputError(f"label: no row is of class {int(count.argmin())}; leave the class out, or give it rows")
    return count


__all__ = [
    "Reject", "Threshold", "balanced", "best_threshold", "class_weights", "cross_validate", "grouped", "kfold",
    "logit_adjustment", "reject", "stratified", "temperature",
]  # fmt: skip
