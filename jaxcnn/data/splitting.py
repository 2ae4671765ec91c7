"""Seeded splits that keep the share of every class."""

from typing import Any

import numpy as np

from jaxcnn.core.types import InputError


def stratified(label: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a seeded split that keeps the share of every class: `(rest, cut)`, in ascending order.

    A class keeps at least one row in the rest. Where classes are too small for their share, larger ones give more.

    Args:
        label: int `[N]`.
        fraction: share of the rows to cut, in [0, 1).
        seed: the same seed, the same split.

    Raises:
        InputError: `fraction` outside its range.

    """
    if not 0 <= fraction < 1:
        raise InputError(f"fraction={fraction}: must be at least 0 and below 1")
    label, rng = np.asarray(label), np.random.default_rng(seed)
    groups = [rng.permutation(np.flatnonzero(label == c)) for c in np.unique(label)]
    most = np.array([len(g) - 1 for g in groups], int)
    wanted = fraction * (most + 1)
    counts = np.minimum(np.floor(wanted).astype(int), most)
    # the rows still missing come from the classes that lost most to rounding, ties by lot: every class that can is within one row
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
    """Take a stratified share from a data set: what is left, the share, and the labels of what is left.

    Raises:
        InputError: `fraction` leaves one of the two without rows; `name` is its name in the message.

    """
    check_fraction(name, fraction, len(label))
    rest, share = stratified(label, fraction, seed)
    if fraction and not len(share):
        raise InputError(
            f"{name}={fraction}: cuts no row, because each class has but one and keeps it; give more rows, or parts of your own"
        )
    return data.take(rest), data.take(share), label[rest]


def check_fraction(name: str, fraction: float, rows: int) -> None:
    """Refuse a share that is none, or that leaves one of the two parts without rows; 0 is no share at all."""
    if not 0 <= fraction < 1:
        raise InputError(f"{name}={fraction}: must be at least 0 and below 1")
    if fraction and not 0 < round(fraction * rows) < rows:
        part, fix = ("no row", "more") if round(fraction * rows) == 0 else ("every row", "less")
        raise InputError(f"{name}={fraction}: cuts {part} out of {rows}; give {fix}")
