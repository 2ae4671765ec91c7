"""Average precision and recall of boxes by the rules of COCO (Lin et al., 2014, arXiv:1405.0312), in NumPy.

The results equal those of pycocotools: overlap thresholds from .5 to .95 in steps of .05, precision at 101 recalls, and
at most 100 boxes per image and class. Crowds and boxes outside an area range are ignored.

Boxes here are x0, y0, x1, y1, as in COCO's tools. Boxes yxyx, as in a batch, give the same values, because swapping the
axes changes neither overlaps nor areas; only predictions and truths must agree. The area ranges need pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.types import InputError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = (1, 10, 100)  # limits on boxes per image and class
AREAS = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # square pixels
RANGES = np.array(list(AREAS.values()))


class Matches(NamedTuple):
    """Outcome for the boxes of one image and class, by area range (A) and threshold (T); only the best `MOST[-1]`."""

    scores: np.ndarray  # [D], falling
    matched: np.ndarray  # [A, T, D], matches a true box
    ignored: np.ndarray  # [A, T, D], neither right nor wrong
    truths: np.ndarray  # [A], number of boxes to find


def coco_scores(predictions: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare predicted boxes with true boxes.

    Args:
        predictions: per image, `"boxes" [N, 4]` (x0, y0, x1, y1 in pixels, or all yxyx), `"scores" [N]`, `"labels" [N]`
            (any integers).
        truths: per image, in the same order, `"boxes" [M, 4]`, `"labels" [M]`; optional `"iscrowd" [M]`, true for a
            region with many objects, and `"area" [M]`, used for the size ranges (by default the area of the box).

    Returns:
        `ap` ("mAP", the mean over classes and the ten thresholds), `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`;
        `ar1`, `ar10`, `ar100` (recall with at most that many boxes per image), `ar_small`, `ar_medium`, `ar_large`; and
        `ap_by_class`, dict from label to `ap`. Values are in 0..1, and NaN where there is nothing to find (-1 in
        pycocotools).

    Raises:
        InputError: the numbers of images differ, shapes do not fit, scores or boxes are not finite, or a box ends
            before it begins.

    """
    if len(predictions) != len(truths):
        raise InputError(
            f"predictions for {len(predictions)} images, truths for {len(truths)}: must be the same images, in "
            "the same order"
        )
    guesses = [_checked(p, "predictions", i, ("scores",)) for i, p in enumerate(predictions)]
    real = [_checked(t, "truths", i, ()) for i, t in enumerate(truths)]
    labels = np.unique(np.concatenate([x["labels"] for x in (*guesses, *real)])) if guesses else np.zeros(0, np.int64)
    precision, recall = np.full((10, 101, len(labels), 4, 3), np.nan), np.full((10, len(labels), 4, 3), np.nan)
    for k, label in enumerate(labels.tolist()):
        found = [
            _match(g, t, label)
            for g, t in zip(guesses, real, strict=True)
            if (g["labels"] == label).any() or (t["labels"] == label).any()
        ]
        for m, most in enumerate(MOST):
            _accumulate(found, most, precision[:, :, k, :, m], recall[:, k, :, m])
    ap = {label: _mean(precision[:, :, k, 0, 2]) for k, label in enumerate(labels.tolist())}
    out = {
        "ap": _mean(precision[..., 0, 2]),
        "ap50": _mean(precision[0, ..., 0, 2]),
        "ap75": _mean(precision[5, ..., 0, 2]),
    }
    out |= {f"ap_{name}": _mean(precision[..., a, 2]) for a, name in enumerate(AREAS) if a}
    out |= {f"ar{most}": _mean(recall[..., 0, m]) for m, most in enumerate(MOST)}
    return out | {f"ar_{name}": _mean(recall[..., a, 2]) for a, name in enumerate(AREAS) if a} | {"ap_by_class": ap}


def box_iou(a: np.ndarray, b: np.ndarray, iscrowd: np.ndarray | None = None) -> np.ndarray:
    """Return the overlap of boxes `[N, 4]` with boxes `[M, 4]`, as `[N, M]`: intersection over union.

    Args:
        a: boxes as x0, y0, x1, y1, or yxyx.
        b: boxes in the same form.
        iscrowd: `[M]`, true for crowds of `b`; their overlap is the intersection over the area of `a`.

    Returns:
        `[N, M]`, 0..1; 0 for two boxes without area, and NaN for a box with NaN.

    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    # computed from width and height as in pycocotools: at a threshold, the last digit decides
    size_a, size_b = a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2]
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + size_a)[:, None], (b[:, :2] + size_b)[None])
    shared = np.prod(np.maximum(high - low, 0), -1)
    area_a, area_b = np.prod(size_a, -1)[:, None], np.prod(size_b, -1)[None]
    union = area_a + area_b - shared
    if iscrowd is not None:
        union = np.where(iscrowd[None], area_a, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared != 0)


def _match(guess: dict[str, np.ndarray], truth: dict[str, np.ndarray], label: int) -> Matches:
    """Match each box of a class, best score first, to the free true box it overlaps most; ignored boxes come second."""
    own = guess["labels"] == label
    order = np.argsort(-guess["scores"][own], kind="stable")[: MOST[-1]]
    scores, boxes = guess["scores"][own][order], guess["boxes"][own][order]
    true = truth["labels"] == label
    crowd, area = truth["iscrowd"][true], truth["area"][true]

    def outside(x):
        return (x < RANGES[:, :1]) | (x > RANGES[:, 1:])

    ignore = crowd | outside(area[None])  # [A, G]
    overlap = box_iou(boxes, truth["boxes"][true], crowd)
    taken = np.zeros((len(RANGES), len(THRESHOLDS), len(area)), bool)
    matched = np.zeros((*taken.shape[:2], len(scores)), bool)
    ignored = np.zeros_like(matched)
    a, t = np.indices(taken.shape[:2], sparse=True)
    for d in range(len(scores)) if len(area) else ():
        near = overlap[d] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]  # [T, G]
        if not near.any():
            continue
        free = near & (~taken | crowd)
        wanted = free & ~ignore[:, None]
        rank = np.where(np.where(wanted.any(-1, keepdims=True), wanted, free), overlap[d], -1.0)
        best = len(area) - 1 - rank[..., ::-1].argmax(-1)  # the last one among ties
        hit = rank[a, t, best] >= 0
        matched[..., d], ignored[..., d] = hit, hit & ignore[a, best]
        taken[a, t, best] |= hit
    size = boxes[:, 2:] - boxes[:, :2]
    ignored |= ~matched & outside(np.prod(size, -1)[None])[:, None]
    return Matches(scores, matched, ignored, (~ignore).sum(1))


def _accumulate(found: list[Matches], most: int, precision: np.ndarray, recall: np.ndarray) -> None:
    """Fill precision `[T, R, A]` and recall `[T, A]` of one class and box limit; NaN if there is nothing to find."""
    order = np.argsort(-np.concatenate([f.scores[:most] for f in found]), kind="stable")
    matched, ignored = (
        np.concatenate([getattr(f, name)[..., :most] for f in found], -1)[..., order] for name in ("matched", "ignored")
    )
    right, wrong = np.cumsum(matched & ~ignored, -1), np.cumsum(~matched & ~ignored, -1)
    for a, total in enumerate(np.sum([f.truths for f in found], 0)):
        for t in range(len(THRESHOLDS)) if total else ():
            reached = right[a, t] / total
            share = right[a, t] / (right[a, t] + wrong[a, t] + np.spacing(1))
            best = np.maximum.accumulate(share[::-1])[::-1]
            recall[t, a] = reached[-1] if len(reached) else 0
            precision[t, :, a] = np.append(best, 0)[np.searchsorted(reached, RECALLS)]


def _checked(image: Mapping[str, Any], name: str, i: int, more: tuple[str, ...]) -> dict[str, np.ndarray]:
    if missing := [key for key in ("boxes", "labels", *more) if key not in image]:
        raise InputError(f"{name}[{i}]: has no {missing[0]!r}")
    boxes, labels = np.asarray(image["boxes"], np.float64), np.asarray(image["labels"])
    boxes = boxes if boxes.size else boxes.reshape(0, 4)
    n = len(boxes)
    out = {"boxes": boxes, "labels": labels if labels.size else labels.astype(np.int64)}
    out |= {key: np.asarray(image[key], np.float64) for key in more}
    if not more:
        size = boxes[:, 2:] - boxes[:, :2] if boxes.shape[1:] == (4,) else np.zeros((n, 2))
        out["iscrowd"] = np.asarray(image.get("iscrowd", np.zeros(n)), bool)
        out["area"] = np.asarray(image.get("area", np.prod(size, -1)), np.float64)
    for key, values in out.items():
        if values.shape != ((n, 4) if key == "boxes" else (n,)):
            wanted = "[N, 4]" if key == "boxes" else "[N]"
            raise InputError(f"{name}[{i}]: {key!r} has shape {values.shape} for {n} boxes; must be {wanted}")
        if not np.isfinite(values).all():
            broken = (~np.isfinite(values)).sum()
            raise InputError(f"{name}[{i}]: {broken} numbers in {key!r} are not finite; leave these boxes out")
    if not np.issubdtype(out["labels"].dtype, np.integer):
        raise InputError(f"{name}[{i}]: 'labels' have dtype {labels.dtype}; must be integers")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        at = boxes[(boxes[:, 2:] < boxes[:, :2]).any(-1)][0]
        raise InputError(f"{name}[{i}]: the box {at.tolist()} ends before it begins; boxes are x0, y0, x1, y1")
    return out


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
