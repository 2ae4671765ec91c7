"""How far the outputs of an exported program are from ours: largest difference, and how often the answers agree."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Outputs = Mapping[str, np.ndarray]
FOUND = ("boxes", "scores", "labels", "box_mask")
OVERLAP, NEAR = 0.9, 5e-3  # of two boxes that are one, and difference of their scores
SCORES, NUMBERS = ("logits",), ("values", "forecast")
CONSTANT = 1e-6  # spread over size that float32 cannot tell from 0


def compare(ours: Outputs, theirs: Outputs, multilabel: bool = False) -> dict[str, Any]:
    """Compare the outputs of two programs for the same rows.

    Args:
        ours: arrays `[N, ...]` by name.
        theirs: the same of the other program.
        multilabel: whether each logit is an answer of its own, for or against a label.

    Returns:
        `"largest_difference"` over the largest output; NaN in one of the two alone counts as infinite. `"agreement"`,
        0..1: the share of rows, or of pixels, with the same class; with `multilabel`, of the same answers about labels;
        of detections, the share that the other program has with the same class, an overlap of 0.9 and a score within
        0.005, in either direction.

    """
    if set(FOUND) <= set(ours):
        return _detections(ours, theirs)
    different = [_difference(ours[name], theirs[name]) for name in ours]
    found: dict[str, Any] = {"largest_difference": float(max(different))}
    for name in SCORES:
        if name in ours and ours[name].ndim > 1:
            one, other = ours[name], theirs[name]
            same = (one > 0) == (other > 0) if multilabel else classes(one) == classes(other)
            found["agreement"] = float(same.mean())
    return found


def classes(logits: np.ndarray) -> np.ndarray:
    """Return the class of each row or pixel; a single logit decides between two."""
    return logits > 0 if logits.shape[-1] == 1 else logits.argmax(-1)


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the root mean square difference over the spread between rows, of the column where that is largest.

    Unlike the largest difference, it does not shrink with an offset that all rows share.

    Args:
        ours: numbers `[N, ...]`; a column that is constant but for rounding has its root mean square as its spread.
        theirs: the same of the other program.

    """
    if ours.shape != theirs.shape:
        return float("inf")
    ours, theirs = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (ours, theirs))
    gap, spread, size = np.sqrt(((ours - theirs) ** 2).mean(0)), ours.std(0), np.sqrt((ours**2).mean(0))
    scale = np.where(spread > CONSTANT * size, spread, size)
    return float(np.max(gap / np.where(scale > 0, scale, 1), initial=0))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return float("inf")
    if ours.dtype.kind in "biu":
        return float((ours != theirs).mean())
    gap, size = np.abs(np.nan_to_num(ours) - np.nan_to_num(theirs)), np.abs(np.nan_to_num(ours)).max(initial=0)
    return float(gap.max(initial=0) / size) if size > 0 else float(gap.max(initial=0))


def _detections(ours: Outputs, theirs: Outputs) -> dict[str, Any]:
    """Match the boxes of each image; boxes of almost equal scores may change places, or push each other out."""
    right = count = 0
    largest = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        for i in range(len(one["scores"])):
            kept = np.flatnonzero(one["box_mask"][i] > 0)
            if len(kept) == one["box_mask"].shape[1]:  # others may be the last ones of a full list
                kept = kept[one["scores"][i] > one["scores"][i].min() + NEAR]
            count += len(kept)
            for k in kept:
                near = _match({n: x[i] for n, x in other.items()}, *(one[n][i, k] for n in FOUND[:3]))
                right += near is not None
                largest = max(largest, near or 0.0)
    return {
        "largest_difference": largest, "agreement": right / count if count else 1.0,
        "boxes": int((ours["box_mask"] > 0).sum()),
    }  # fmt: skip


def _match(image: Mapping[str, np.ndarray], box: Any, score: Any, label: Any) -> float | None:
    """Return the difference of scores to the box that is the same, or None."""
    able = (image["box_mask"] > 0) & (image["labels"] == label) & (np.abs(image["scores"] - score) < NEAR)
    low, high = np.maximum(image["boxes"][:, :2], box[:2]), np.minimum(image["boxes"][:, 2:], box[2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (image["boxes"], box)]
    able &= shared >= OVERLAP * (areas[0] + areas[1] - shared)
    return float(np.abs(image["scores"] - score)[able].min()) if able.any() else None


def in_batches(run: Callable[[Mapping[str, Any]], Outputs], rows: Mapping[str, Any], sizes: list[int]) -> Outputs:
    """Run a program on all rows in batches of these sizes, the last one again and again, filled up with first rows.

    Args:
        run: the program.
        rows: arrays `[N, ...]` by name.
        sizes: rows of the first batches, and of all that follow.

    """
    count, start, parts, left = len(next(iter(rows.values()))), 0, [], list(sizes)
    while start < count:
        size = left.pop(0) if len(left) > 1 else left[0]
        index = np.arange(start, start + size)
        index = np.where(index < count, index, 0)
        found = run({name: np.asarray(x)[index] for name, x in rows.items()})
        parts.append({name: np.asarray(x)[: count - start] for name, x in found.items()})
        start += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
