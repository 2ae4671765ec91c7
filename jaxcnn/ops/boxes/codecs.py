"""Boxes described relative to anchors, and relative to points."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError
from jaxcnn.ops.boxes.overlap import aligned, as_rank, checked

Array = jax.Array
LIMIT = math.log(1000 / 16)  # how many times larger than its anchor a decoded box may be, as a logarithm
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def encode_deltas(boxes: Array, anchors: Array, weights: Sequence[float] = WEIGHTS) -> Array:
    """Describe boxes relative to anchors, as R-CNN, SSD and RetinaNet do.

    Args:
        boxes: `[..., 4]`.
        anchors: `[..., 4]`, in the same unit; the leading axes broadcast.
        weights: factors of dy, dx, dh, dw, each above 0.

    Returns:
        `[..., 4]`: the distance of the centres (dy, dx) over the anchor's size, and the logarithm of the ratio of sizes
        (dh, dw). All zeros where the box or the anchor has no size or is not finite, as padding is.

    Raises:
        InputError: an array does not hold boxes, or a weight is not positive.

    Reference: Girshick et al., 2013, arXiv:1311.2524, appendix C.

    """
    factors = _factors(weights)
    boxes, anchors = aligned(checked(boxes), checked(anchors))
    sound = jnp.isfinite(boxes).all(-1) & jnp.isfinite(anchors).all(-1)
    sound &= (boxes[..., 2:] > boxes[..., :2]).all(-1) & (anchors[..., 2:] > anchors[..., :2]).all(-1)
    sound = sound[..., None]
    unit = jnp.broadcast_to(jnp.array([0, 0, 1, 1], boxes.dtype), (*sound.shape[:-1], 4))
    (centre, size), (middle, extent) = (_centre_size(jnp.where(sound, x, unit)) for x in (boxes, anchors))
    deltas = jnp.concatenate([(centre - middle) / extent, jnp.log(size / extent)], -1)
    return deltas * as_rank(factors, deltas.ndim)


def decode_deltas(deltas: Array, anchors: Array, weights: Sequence[float] = WEIGHTS, limit: float = LIMIT) -> Array:
    """Return the boxes that `encode_deltas` described.

    Args:
        deltas: `[..., 4]`, dy, dx, dh, dw.
        anchors: `[..., 4]`; the leading axes broadcast.
        weights: those that the deltas were encoded with.
        limit: largest dh and dw after division by their weights; keeps a wild prediction from overflowing.

    Returns:
        `[..., 4]`, in the unit of the anchors; not clipped at the border.

    Raises:
        InputError: an array does not hold boxes, or a weight is not positive.

    """
    factors = _factors(weights)
    deltas, anchors = aligned(checked(deltas, "deltas"), checked(anchors))
    deltas = deltas / as_rank(factors, deltas.ndim)
    middle, extent = _centre_size(anchors)
    centre = middle + deltas[..., :2] * extent
    half = jnp.exp(jnp.minimum(deltas[..., 2:], limit)) * extent / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def encode_distances(points: Array, boxes: Array) -> Array:
    """Return how far the sides of boxes are from points; all four are positive where the point is inside.

    Args:
        points: `[..., 2]`, yx.
        boxes: `[..., 4]`, in the same unit; the leading axes broadcast.

    Returns:
        `[..., 4]`: top, left, bottom, right.

    Raises:
        InputError: an array does not hold points or boxes.

    Reference: Tian et al., 2019, arXiv:1904.01355 (FCOS).

    """
    points, boxes = aligned(checked(points, "points", 2), checked(boxes))
    return jnp.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def decode_distances(points: Array, distances: Array) -> Array:
    """Return the boxes `[..., 4]` whose top, left, bottom and right sides have these distances from the points."""
    points, distances = aligned(checked(points, "points", 2), checked(distances, "distances"))
    return jnp.concatenate([points - distances[..., :2], points + distances[..., 2:]], -1)


def _factors(weights: Sequence[float]) -> Array:
    if len(weights) != 4 or not all(w > 0 for w in weights):
        raise InputError(f"weights={tuple(weights)}: must be four positive numbers, for dy, dx, dh and dw")
    return jnp.asarray(weights, jnp.float32)


def _centre_size(boxes: Array) -> tuple[Array, Array]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
