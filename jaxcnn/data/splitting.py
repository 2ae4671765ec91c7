"""Stratified splits: every class keeps its share."""

import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, check_numbers, check_whole
from jaxcnn.data.core import Splits

log = logging.getLogger("jaxcnn")


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
    check_numbers(fraction=fraction)
    if not 0 <= fraction < 1:
        raise InputError(f"fraction={fraction}: must be at least 0 and below 1")
    check_whole("seed", seed, 0)
    label, rng = np.asarray(label), np.random.default_rng(seed)
    if label.ndim != 1:
        raise InputError(f"label of shape {label.shape}: must be [N], one class per row")
    if label.dtype.kind == "f" and np.isnan(label).any():
        raise InputError(
            f"label of row {int(np.isnan(label).argmax())}: is NaN, which is no class; leave such rows out"
        )
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
    check_numbers(fraction=fraction)
    check_whole("rows", rows)
    if not 0 <= fraction < 1:
        raise InputError(f"{name}={fraction}: must be at least 0 and below 1")
    if fraction and not 0 < round(fraction * rows) < rows:
        part, fix = ("no row", "more") if round(fraction * rows) == 0 else ("every row", "less")
        raise InputError(f"{name}={fraction}: cuts {part} out of {rows}; give {fix}")


def tested(found: dict[str, Any], where: pathlib.Path) -> dict[str, Any]:
    """Make the validation part the test part if there is no other, and log that.

    Args:
        found: dict from `train`, `valid` and `test` to anything.
        where: the data set, for messages.

    Raises:
        InputError: There is no training part.

    """
    if "train" not in found:
        raise InputError(f"{visible(where)}: no training part, only {', '.join(found) or 'nothing'}; add one")
    if "test" not in found and "valid" in found:
        log.warning("%s: the validation part is the test part, because there is no other", visible(where))
        return {"test" if part == "valid" else part: x for part, x in found.items()}
    return found


def parted(
    held: Mapping[str, Any], seed: int, validation_fraction: float, test_fraction: float, group: str | None = None
) -> Splits:
    """Cut the parts that are missing from the training rows, at random.

    Args:
        held: dict from `train` and possibly `valid` and `test` to data sets.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on.
        test_fraction: share of all rows to test on.
        group: regular expression for the names of rows; rows with the same first group of a match, or the same match,
            are in one part. None for no groups.

    Raises:
        InputError: A share is out of range, or leaves a part without rows; or a name has no match.

    """
    train, parts = held["train"], dict(held)
    for part, fraction, name in (
        ("test", test_fraction, "test_fraction"),
        ("valid", validation_fraction, "validation_fraction"),
    ):
        if part in parts:
            if group is not None:
                _tell_groups(train, parts[part], group, part)
            continue
        if group is not None and fraction:
            train, parts[part] = _cut_groups(train, group, fraction, seed, name)
        else:
            train, parts[part], _ = cut(train, np.zeros(train.size, np.int32), fraction, seed, name)
    return Splits(train, parts["valid"], parts["test"])


def _cut_groups(data: Any, pattern: str, fraction: float, seed: int, name: str) -> tuple[Any, Any]:
    """Split off whole groups of rows, as many rows as come closest to the share."""
    check_fraction(name, fraction, data.size)
    groups = _groups(data, pattern)
    known = [group for group in groups if group is not None]
    if len(known) < len(groups):
        alone = data.names[groups.index(None)]
        raise InputError(f"group={pattern!r}: {visible(alone)} has no match; each name must have one")
    names, index, counts = np.unique(known, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise InputError(f"group={pattern!r}: all rows are of the group {visible(names[0])!r}; there must be two")
    order = np.random.default_rng(seed).permutation(len(names))
    far = np.abs(np.cumsum(counts[order])[:-1] - fraction * data.size)
    chosen = np.isin(index, order[: int(far.argmin()) + 1])
    return data.take(np.flatnonzero(~chosen)), data.take(np.flatnonzero(chosen))


def _groups(data: Any, pattern: str) -> list[str | None]:
    """Return the group of each row; None where the name has no match."""
    try:
        matches = [re.search(pattern, row) for row in data.names]
    except re.error as error:
        raise InputError(f"group={pattern!r}: not a regular expression ({error})") from error
    return [match and (match[1 if match.re.groups else 0] or "") for match in matches]


def _tell_groups(train: Any, other: Any, pattern: str, part: str) -> None:
    """Log a warning if rows of a part that the data came with belong to groups of training rows."""
    known, own = set(_groups(train, pattern)) - {None}, _groups(other, pattern)
    count, shown = sum(name in known for name in own), part.replace("valid", "validation")
    if count:
        log.warning("group=%r: %d of %d %s rows belong to groups of training rows", pattern, count, len(own), shown)
