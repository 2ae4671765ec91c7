"""COCO's average precision as sums that add: matching on the device, scores in bins (Lin et al., 2014).

`coco_scores` computes the same on the host from all boxes. This metric follows training: it is compiled, and its state
adds over batches and devices. Precision is exact but for the order of the boxes within one bin of scores.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import Batch, InputError, Metric, align, check_whole, row_mask
from jaxcnn.metrics.detection import MOST, RECALLS, THRESHOLDS
from jaxcnn.metrics.sums import tally
from jaxcnn.ops import boxes as box_ops

Array = jax.Array
Boxes = Mapping[str, Array]
ROUNDING = 1e-5  # two boxes of whole pixels often overlap by just 0.5, and shares of an image in float32 are rounded


class AveragePrecision(NamedTuple):
    """Numbers of predicted boxes that are right and wrong, by class, overlap threshold and score, and of true boxes."""

    right: Any  # [K, T, bins], bins of rising scores
    wrong: Any  # [K, T, bins]
    truths: Any  # [K]
    nans: Any  # boxes with NaN, or with a score outside 0..1

    def compute(self) -> dict[str, Any]:
        """Return `ap` (mean over classes and thresholds), `ap50`, `ap75`, and arrays by class.

        The arrays are `ap_by_class` and `ap50_by_class` `[K]`, and `precision50_by_class` `[K, 101]`, the precision at
        recalls of 0, 0.01 to 1 for the threshold .5. Values are in 0..1. A class without true boxes is NaN, and the
        means leave it out. Where a prediction or a true box is NaN, everything is.
        """
        right, wrong = (np.asarray(x, np.float64)[..., ::-1] for x in (self.right, self.wrong))
        precision = np.full((*right.shape[:2], len(RECALLS)), np.nan)  # [K, T, R]
        for k, total in enumerate(np.asarray(self.truths, np.float64)):
            for t in range(right.shape[1]) if total and not float(self.nans) else ():
                precision[k, t] = _precision(right[k, t], wrong[k, t], total)
        by_class = precision.mean(-1)  # [K, T]
        found = ~np.isnan(by_class[:, 0])

        def over_classes(values: np.ndarray) -> float:
            return float(values[found].mean()) if found.any() else float("nan")

        return {
            "ap": over_classes(by_class),
            "ap50": over_classes(by_class[:, 0]),
            "ap75": over_classes(by_class[:, 5]),
            "ap_by_class": by_class.mean(-1),
            "ap50_by_class": by_class[:, 0],
            "precision50_by_class": precision[:, 0],
        }


def average_precision(num_classes: int, *, bins: int = 2048) -> Metric:
    """COCO's average precision of detections, by the rules of `coco_scores`.

    Detections are a dict of `"boxes"` `[B, M, 4]`, `"scores"` `[B, M]` in 0..1, `"labels"` int `[B, M]` and
    `"box_mask"` `[B, M]`. The batch has `"boxes"` `[B, N, 4]`, `"box_label"` int `[B, N]`, and may have `"box_mask"`
    (without it, boxes that have an area count) and `"box_crowd"`. Boxes are yxyx, in one unit. A class outside 0..K-1
    does not count, nor do more than 100 detections per image and class. A NaN, or a score outside 0..1, makes every
    value NaN.

    Args:
        num_classes: K, at least 1.
        bins: number of bins of scores, at least 2. They are narrower near 0 and 1, where scores of detectors crowd.
            With 2048, `ap` differs from the exact value by about 1e-3 at most. The state has `20 * K * bins` numbers.

    Returns:
        A metric whose values are those of `AveragePrecision.compute`.

    Raises:
        InputError: a number is too small, or an entry is missing or has the wrong shape (when traced).

    """
    for name, value in (("bins", bins), ("num_classes", num_classes)):
        check_whole(name, value)
    if num_classes < 1 or bins < 2:
        raise InputError(f"num_classes={num_classes}, bins={bins}: must be at least 1, and at least 2")

    def metric(outputs: Boxes, batch: Batch) -> AveragePrecision:
        _check(outputs, "detections", ("scores", "labels", "box_mask"), ("scores", "labels"))
        _check(batch, "batch", ("box_label", "box_mask", "box_crowd"), ("box_label",))
        outputs = {**outputs, **{name: outputs[name].astype(jnp.float32) for name in ("boxes", "scores")}}
        rows = row_mask(batch)[:, None] > 0
        found, true = _detections(outputs, rows, num_classes), _truths(batch, rows, num_classes)
        right, wrong = jax.vmap(_matched)(found, true)  # [B, M, T]
        shape = (num_classes, len(THRESHOLDS), bins)
        share = jnp.arcsin(jnp.sqrt(found["score"].clip(0, 1))) * (2 / np.pi)
        place = jnp.minimum(share * bins, bins - 1).astype(jnp.int32)
        row = found["label"][..., None] * shape[1] + jnp.arange(shape[1])[None, None]
        cell = row * bins + place[..., None]
        truths = tally(true["label"], true["counts"] & ~true["crowd"], shape[:1])
        nans = sum(x["nan"].sum(dtype=jnp.int32) for x in (found, true))
        return AveragePrecision(tally(cell, right, shape), tally(cell, wrong, shape), truths, nans)

    return metric


def _check(given: Boxes, name: str, keys: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Refuse missing entries, and shapes that do not fit the boxes."""
    if missing := [key for key in ("boxes", *needed) if key not in given]:
        raise InputError(f"average_precision: no {missing[0]!r} in the {name}, only {', '.join(given)}")
    shape = jnp.shape(given["boxes"])
    if len(shape) != 3 or shape[-1] != 4:
        raise InputError(f"average_precision: boxes of shape {shape} in the {name}: must be [B, N, 4]")
    for key in keys:
        if key in given and jnp.shape(given[key]) != shape[:2]:
            raise InputError(f"average_precision: {key!r} of shape {jnp.shape(given[key])}: must be {shape[:2]}")
        if key in ("labels", "box_label") and not jnp.issubdtype(given[key].dtype, jnp.integer):
            raise InputError(f"average_precision: {key!r} of dtype {given[key].dtype}: must be integers")


def _detections(given: Boxes, rows: Array, num_classes: int) -> dict[str, Array]:
    """Return `box`, `score`, `label`, `counts` and `nan` of the detections of each image, best first."""
    mask = given["box_mask"] > 0 if "box_mask" in given else True
    scored = (given["scores"] >= 0) & (given["scores"] <= 1)  # not NaN, and no logit
    sound = scored & ~jnp.isnan(given["boxes"]).any(-1)
    label = given["labels"].astype(jnp.int32)
    known = rows & mask & (label >= 0) & (label < num_classes)
    score = jnp.where(known & sound, given["scores"], -jnp.inf)
    order = jnp.argsort(-score, axis=-1)  # stable: the first of equal scores stays the first
    values = {
        "box": given["boxes"], "score": score, "label": label.clip(0, num_classes - 1),
        "counts": known & sound, "nan": rows & mask & ~sound,
    }  # fmt: skip
    out = {name: jnp.take_along_axis(x, align(order, x), 1) for name, x in values.items()}
    if order.shape[1] > MOST[-1]:
        same = (out["label"][:, :, None] == out["label"][:, None]) & out["counts"][:, None]
        out["counts"] &= jnp.tril(same).sum(-1) <= MOST[-1]
    return out


def _truths(batch: Batch, rows: Array, num_classes: int) -> dict[str, Array]:
    """Return `box`, `label`, `counts`, `crowd` and `nan` of the true boxes of each image."""
    boxes, label = batch["boxes"].astype(jnp.float32), batch["box_label"].astype(jnp.int32)
    mask = batch["box_mask"] > 0 if "box_mask" in batch else ~(box_ops.area(boxes) <= 0)
    nan = jnp.isnan(boxes).any(-1)
    known = rows & mask & (label >= 0) & (label < num_classes)
    return {
        "box": boxes, "label": label.clip(0, num_classes - 1), "counts": known & ~nan,
        "crowd": batch["box_crowd"] > 0 if "box_crowd" in batch else jnp.zeros(label.shape, bool), "nan": known & nan,
    }  # fmt: skip


def _matched(found: dict[str, Array], true: dict[str, Array]) -> tuple[Array, Array]:
    """Return which detections `[M]` of one image are right, and which wrong, by threshold: `[M, T]` each.

    The best detection comes first, and takes the free true box of its class that it overlaps most, the last among
    equals as in pycocotools; a crowd only if there is no other, and then the detection counts neither way.
    """
    shared = box_ops.intersection(found["box"], true["box"])
    inside = shared / jnp.maximum(box_ops.area(found["box"]), 1e-30)[:, None]  # crowds are never found as a whole
    overlap = jnp.where(true["crowd"][None], inside, box_ops.iou(found["box"], true["box"]))
    comparable = (found["label"][:, None] == true["label"][None]) & true["counts"][None]
    overlap = jnp.where(comparable, overlap, -1.0)
    crowd, last = true["crowd"][None], overlap.shape[1] - 1
    thresholds = jnp.asarray(THRESHOLDS - ROUNDING, overlap.dtype)[:, None]

    def take(taken: Array, one: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        near, counts = one
        free = (near[None] >= thresholds) & (~taken | crowd) & counts  # [T, N]
        wanted = free & ~crowd
        chosen = jnp.where(wanted.any(-1, keepdims=True), wanted, free)
        best = last - jnp.where(chosen, near[None], -1)[:, ::-1].argmax(-1)
        hit, ignored = chosen.any(-1), chosen.any(-1) & true["crowd"][best]
        taken |= hit[:, None] & (jnp.arange(last + 1)[None] == best[:, None])
        return taken, (hit & ~ignored, ~hit & counts)

    if last < 0:
        wrong = jnp.broadcast_to(found["counts"][:, None], (len(overlap), len(THRESHOLDS)))
        return jnp.zeros_like(wrong), wrong
    return lax.scan(take, jnp.zeros((len(THRESHOLDS), last + 1), bool), (overlap, found["counts"]))[1]


def _precision(right: np.ndarray, wrong: np.ndarray, total: float) -> np.ndarray:
    """Precision at each of the recalls, from counts by bin, the highest scores first.

    Within a bin, each order of its boxes is as likely as any other: its n-th right box of `r` has `n / (r + 1)` of the
    wrong ones before it.
    """
    of_bin = np.repeat(np.arange(len(right)), right.astype(np.int64))  # the bin of each right box
    rank = np.arange(1, len(of_bin) + 1)
    before = (np.cumsum(right) - right)[of_bin]
    misses = (np.cumsum(wrong) - wrong)[of_bin] + wrong[of_bin] * (rank - before) / (right[of_bin] + 1)
    best = np.maximum.accumulate((rank / (rank + misses))[::-1])[::-1]
    return np.append(best, 0)[np.searchsorted(rank / total, RECALLS)]
