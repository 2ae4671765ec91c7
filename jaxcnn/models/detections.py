"""What detectors share at both ends: which features they read, and how boxes and scores become detections."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxcnn import ops
from jaxcnn.core.types import InputError, align
from jaxcnn.layers import feature_levels
from jaxcnn.ops import boxes as box

Array = jax.Array


def check_detector(made: Any, *positive: str) -> None:
    """Refuse options of a detector that are out of range.

    Args:
        made: the detector, with `num_classes`, `backbone`, thresholds and `max_detections`.
        *positive: names of further fields that must be at least 1.

    """
    for name in ("num_classes", "max_detections", *positive):
        if getattr(made, name) < 1:
            about = ", without the background" if name == "num_classes" else ""
            raise InputError(f"{name}={getattr(made, name)}: must be at least 1{about}")
    for name in ("score_threshold", "iou_threshold"):
        if not 0 <= getattr(made, name) <= 1:
            raise InputError(f"{name}={getattr(made, name)}: must be in 0..1")
    if not callable(getattr(made.backbone, "features", None)):
        raise InputError(f"backbone={type(made.backbone).__name__}: has no features(); use a network of models.MODELS")


def without_padding(image: Array, row_mask: Array | None) -> Array:
    """Replace rows that are padding by zeros, because they may hold anything and 0 x NaN is NaN."""
    return image if row_mask is None else jnp.where(align(row_mask > 0, image), image, 0)


def levels_of(backbone: Any, x: Array, features: Mapping[str, Array], levels: Sequence[int]) -> list[Array]:
    """Return the feature maps of a backbone that a detector reads.

    Args:
        backbone: the network.
        x: images `[B, H, W, C]`.
        features: what the backbone's `features` made of them.
        levels: level `i` has `2**i` times coarser pixels than the image.

    Raises:
        InputError: the backbone has no such level.

    """
    found = feature_levels(backbone, x, features)
    if lacking := [level for level in levels if level not in found]:
        has = ", ".join(map(str, sorted(found)))
        raise InputError(
            f"levels={tuple(levels)}: the backbone has no level {lacking[0]}, only {has}; use some of these"
        )
    return [found[level] for level in levels]


def best_boxes(
    boxes: Array,
    scores: Array,
    *,
    mask: Array | None = None,
    candidates: int,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> dict[str, Array]:
    """Choose the detections of each image by non-maximum suppression per class.

    Args:
        boxes: `[B, A, 4]`, or `[B, A, K, 4]` for a box per class; yxyx in 0..1, clipped at the border here.
        scores: `[B, A, K]`, 0..1.
        mask: `[B, A]`, 1 for boxes that count; None for all.
        candidates: boxes per class that suppression sees, those with the highest scores.
        score_threshold: detections have higher scores.
        iou_threshold: of two boxes of a class that overlap by more, one stays.
        max_detections: the best of all classes that are kept, M.

    Returns:
        `"boxes"` `[B, M, 4]`, `"scores"` `[B, M]`, falling, `"labels"` int32 `[B, M]` and `"box_mask"` bool `[B, M]`;
        the entries past the last detection are zeros.

    """
    classes, most = scores.shape[-1], min(candidates, scores.shape[1])
    boxes = box.clip(boxes)
    scores = scores if mask is None else jnp.where(mask[..., None] > 0, scores, 0)
    label = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), most)

    def one(boxes: Array, scores: Array) -> dict[str, Array]:
        best, index = ops.top_k(scores.T, most)  # [K, most]
        if boxes.ndim == 2:
            found = boxes[index]
        else:
            found = jnp.take_along_axis(boxes.swapaxes(0, 1), index[..., None], 1)
        found = found.reshape(-1, 4)
        options = {"iou_threshold": iou_threshold, "score_threshold": score_threshold}
        kept = box.nms(
            found, best.reshape(-1), classes=label, mask=box.area(found) > 0, max_outputs=max_detections, **options
        )
        return {
            "boxes": jnp.where(kept.mask[:, None], found[kept.index], 0),
            "scores": kept.scores,
            "labels": jnp.where(kept.mask, label[kept.index], 0),
            "box_mask": kept.mask,
        }

    return jax.vmap(one)(boxes, scores)
