"""Non-maximum suppression, hard and soft, inside `jax.jit` with fixed sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.types import InputError, check_whole
from jaxcnn.ops.boxes.overlap import checked, corners, over_union, wide
from jaxcnn.ops.native import is_whole
from jaxcnn.ops.primitives import bind, primitive

Array = jax.Array


class Selected(NamedTuple):
    """What `nms` keeps, best first; entries past the end are 0, 0 and false."""

    index: Array  # int32 [max_outputs], of the box among those given
    scores: Array  # [max_outputs], falling
    mask: Array  # bool [max_outputs]


def nms(
    boxes: Array,
    scores: Array,
    *,
    iou_threshold: float,
    max_outputs: int,
    classes: Array | None = None,
    mask: Array | None = None,
    score_threshold: float = 0.0,
    soft: float | None = None,
) -> Selected:
    """Keep the best boxes and drop those that overlap them: exact, greedy non-maximum suppression.

    It takes the box with the highest score, the first among equals, drops what overlaps it by more than
    `iou_threshold`, and goes on until `max_outputs` are kept or none is left. Time and memory grow with N times
    `max_outputs` and N, so choose the best few thousand boxes first. No gradient goes through the choice; the scores
    of hard suppression have one.

    Args:
        boxes: `[N, 4]`; use `jax.vmap` for more axes. A box with NaN is never kept.
        scores: `[N]`.
        iou_threshold: 0..1. With `soft`, 1.0 leaves all suppression to the decay.
        max_outputs: number of entries of the result, at least 1; may be more than N.
        classes: int `[N]`; boxes of different classes do not suppress each other. None: all are of one class.
        mask: `[N]`, 1 for boxes that count; None for all.
        score_threshold: only boxes with a score above it are kept; use `-jnp.inf` for logits.
        soft: sigma of Soft-NMS, above 0: the score of a box decays by `exp(-iou**2 / sigma)` for each box that is kept
            before it, so scores must not be negative (Bodla et al., 2017, arXiv:1704.04503). None: hard suppression.

    Returns:
        Index, scores and mask of the kept boxes, `[max_outputs]` each, best first.

    Raises:
        InputError: a shape or a value is wrong.

    """
    boxes, scores = checked(boxes), wide(scores)
    _check_nms(boxes, scores, classes, mask, iou_threshold, max_outputs, soft)
    if boxes.shape[0] == 0:
        return Selected(*(jnp.zeros(max_outputs, dtype) for dtype in (jnp.int32, scores.dtype, bool)))
    able = jnp.isfinite(boxes).all(-1) if mask is None else jnp.isfinite(boxes).all(-1) & (mask > 0)
    boxes = lax.stop_gradient(jnp.where(able[:, None], boxes, 0))
    left = lax.stop_gradient(jnp.where(able & (scores > score_threshold), scores, -jnp.inf))  # -inf: out of the race
    how = {"iou_threshold": iou_threshold, "score_threshold": score_threshold, "soft": soft, "number": max_outputs}
    if is_whole() and soft is None:
        kinds = jnp.zeros(scores.shape, jnp.int32) if classes is None else classes
        index, found = bind(CHOSEN, boxes, left, kinds, **how)
    else:
        index, found = _chosen(boxes, left, classes, **how)
    kept = found > -jnp.inf
    index = jnp.where(kept, index, 0)
    return Selected(index, jnp.where(kept, scores[index] if soft is None else found, 0), kept)


def _chosen(
    boxes: Array, left: Array, classes: Array | None, *, iou_threshold: float, score_threshold: float,
    soft: float | None, number: int,
) -> list[Array]:  # fmt: skip
    """Return which boxes are kept, best first, and their scores; -inf past the end."""
    sides, able = corners(boxes), left > -jnp.inf

    def keep(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = left.argmax().astype(jnp.int32)
        y0, x0, y1, x1 = (side[best] for side in sides)
        overlap = over_union((y0, x0, y1, x1), sides)[0]
        rivals = jnp.ones_like(able) if classes is None else classes == classes[best]
        decayed = left if soft is None else left * jnp.where(rivals, jnp.exp(-(overlap**2) / soft), 1)
        out = (rivals & (overlap > iou_threshold)) | (jnp.arange(len(left)) == best) | ~(decayed > score_threshold)
        return jnp.where(out, -jnp.inf, decayed), (best, left[best])

    return list(lax.scan(keep, left, None, number)[1])


CHOSEN = primitive("nms", _chosen, _chosen, several=True)  # traced in `whole_operations` alone


def _check_nms(
    boxes: Array,
    scores: Array,
    classes: Array | None,
    mask: Array | None,
    iou_threshold: float,
    max_outputs: int,
    soft: float | None,
) -> None:
    if boxes.ndim != 2:
        raise InputError(f"boxes of shape {tuple(boxes.shape)}: must be [N, 4]; use jax.vmap for more axes")
    for name, x in (("scores", scores), ("classes", classes), ("mask", mask)):
        if x is not None and jnp.shape(x) != boxes.shape[:1]:
            raise InputError(f"{name} of shape {jnp.shape(x)}: must be {boxes.shape[:1]}, one entry per box")
    if isinstance(iou_threshold, float | int) and not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold={iou_threshold}: must be in 0..1")
    check_whole("max_outputs", max_outputs, 1)
    if isinstance(soft, float | int) and not soft > 0:
        raise InputError(f"soft={soft}: must be above 0; use None for hard suppression alone")
