"""Stratified splits: every class keeps its share."""

from typing import Any

import numpy as np

from jaxcnn.core.types import InputError


def stratified(label: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows so that every class keeps its share.

    Every class keeps at least one row in the first part. If a class is too small for its share, larger classes give
    more rows.

    Args:
        label: class of each row, int `[N]`.
        fraction: share of the rows in the second part, in [0, 1).
        seed: seed of the split; the same seed gives the same split.

    Returns:
        `(rest, cut)`: row numbers of the two parts, ascending.

    Raises:
        InputError: `fraction` is outside its range.

    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction={fraction}: must be at least 0 and below 1")
    label, rng = np.asarray(label), np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(label == c)) for c in np.unique(label)]
    most = np.array([len(g) - 1 for g in groups], int)
    wanted = fraction * (most + 1)
    counts = np.minimum(np.floor(wanted).astype(int), most)
    # the missing rows come from the classes that lost most to rounding, with random ties: errors are below one row
    lost = np.lexsort([rng.random(len(groups)), (counts - wanted).round(9)])
    missing = min(round(fraction * len(label)), most.sum()) - counts.sum()
    while missing > 0:
        able = lost[counts[lost] < most[lost]][:missing]
        counts[able] += 1
        missing -= len(able)
    cut = np.sort(np.concatenate([label[:0].astype(int), *(g[:n] for g, n in zip(groups, counts, strict=True))]))
    return np.setdiff1d(np.arange(len(label)), cut), cut


def cut(
    data: Any, label: np.ndarray, fraction: float, seed: int, name: str = "validation_fraction"
) -> tuple[Any, Any, np.ndarray]:
    """Split a stratified share off a data set.

    Args:
        data: a data set.
        label: class of each row, `[N]`.
        fraction: share of the rows, in [0, 1).
        seed: seed of the split.
        name: name of `fraction` in messages.

    Returns:
        `(rest, share, labels of the rest)`.

    Raises:
        InputError: `fraction` is outside its range, or leaves a part without rows.

    """
    check_fraction(name, fraction, len(label))
    rest, share = stratified(label, fraction, seed)
    if fraction and not len(share):
        raise InputError(
            f"{name}={fraction}: cuts no row, because each class has only one row and keeps it; "
            "give more rows, or your own parts"
        )
    return data.take(rest), data.take(share), label[rest]


def check_fraction(name: str, fraction: float, rows: int) -> None:
    """Refuse a share outside [0, 1), and a share above 0 that leaves a part without rows.

    Args:
        name: name of the share in messages.
        fraction: the share.
        rows: number of rows.

    Raises:
        InputError: The share is refused.

    """
    if not 0 <= fraction < 1:
        raise InputError(f"{name}={fraction}: must be at least 0 and below 1")
    if fraction and not 0 < round(fraction * rows) < rows:
        part, fix = ("no row", "more") if round(fraction * rows) == 0 else ("every row", "less")
        raise InputError(f"{name}={fraction}: cuts {part} out of {rows}; give {fix}")
