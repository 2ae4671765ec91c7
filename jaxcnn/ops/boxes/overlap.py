"""Areas and overlaps of boxes, and the checks that the functions of boxes share."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError

Array = jax.Array
Corners = tuple[Array, Array, Array, Array]
Kind = Literal["iou", "giou", "diou"]
KINDS = ("iou", "giou", "diou")
TINY = 1e-30  # an area below it counts as 0, so that gradients are finite


def area(boxes: Array) -> Array:
    """Return the areas `[...]` of boxes `[..., 4]`; 0 for a box that ends before it begins."""
    return _area(corners(checked(boxes)))


def intersection(a: Array, b: Array) -> Array:
    """Return the area that each box of `a` shares with each box of `b`.

    Args:
        a: `[..., N, 4]`.
        b: `[..., M, 4]`, in the same unit; the leading axes broadcast.

    Returns:
        `[..., N, M]`.

    Raises:
        InputError: an array does not hold boxes.

    """
    return _shared(*_pairs(a, b))


def iou(a: Array, b: Array) -> Array:
    """Return the intersection over union of each box of `a` with each box of `b`.

    Args:
        a: `[..., N, 4]`.
        b: `[..., M, 4]`, in the same unit; the leading axes broadcast.

    Returns:
        `[..., N, M]`, 0..1; 0 for two boxes without area, and NaN for a box with NaN.

    Raises:
        InputError: an array does not hold boxes.

    """
    return over_union(*_pairs(a, b))[0]


def paired_iou(a: Array, b: Array, kind: Kind = "iou") -> Array:
    """Return the overlap of each box of `a` with the box of `b` at the same place; gradients are always finite.

    Args:
        a: `[..., 4]`.
        b: `[..., 4]`, in the same unit; the leading axes broadcast.
        kind: `"iou"`, intersection over union; `"giou"`, less the share of the smallest box around both that neither
            covers; `"diou"`, less the squared distance of the centres over the squared diagonal of that box.

    Returns:
        `[...]`, 0..1, and -1..1 for the other kinds.

    Raises:
        InputError: an array does not hold boxes, or the kind is unknown.

    Reference: Rezatofighi et al., 2019, arXiv:1902.09630 (GIoU); Zheng et al., 2019, arXiv:1911.08287 (DIoU).

    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
    p, q = map(corners, aligned(checked(a), checked(b)))
    overlap, union = over_union(p, q)
    if kind == "iou":
        return overlap
    h, w = (jnp.maximum(jnp.maximum(p[i + 2], q[i + 2]) - jnp.minimum(p[i], q[i]), 0) for i in (0, 1))  # around both
    if kind == "giou":
        return overlap - _divided(h * w - union, h * w)
    dy, dx = ((p[i] + p[i + 2] - q[i] - q[i + 2]) / 2 for i in (0, 1))
    return overlap - _divided(dy**2 + dx**2, h**2 + w**2)


def clip(boxes: Array, height: Any = 1.0, width: Any = 1.0) -> Array:
    """Clip boxes `[..., 4]` at the border of the image, whose size is in the unit of the boxes."""
    boxes = checked(boxes)
    limits = [jnp.asarray(x, boxes.dtype) for x in (height, width)]
    y, x = (jnp.clip(boxes[..., i::2], 0, as_rank(n[..., None], boxes.ndim)) for i, n in enumerate(limits))
    return jnp.stack([y[..., 0], x[..., 0], y[..., 1], x[..., 1]], -1)


def wide(x: Any) -> Array:
    """Return an array of float32 or wider."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def checked(x: Any, name: str = "boxes", last: int = 4) -> Array:
    """Return floats `[..., last]`; refuse any other shape."""
    x = wide(x)
    if x.ndim == 0 or x.shape[-1] != last:
        raise InputError(f"{name} of shape {tuple(x.shape)}: must be [..., {last}]")
    return x


def as_rank(x: Array, ndim: int) -> Array:
    """Return the array with this number of axes, the new ones in front."""
    return x.reshape((1,) * (ndim - x.ndim) + x.shape)


def aligned(a: Array, b: Array) -> tuple[Array, Array]:
    """Return both with the same number of axes."""
    n = max(a.ndim, b.ndim)
    return as_rank(a, n), as_rank(b, n)


def corners(boxes: Array) -> Corners:
    """Return y0, x0, y1 and x1 `[...]`: apart, they take half the time to compare on a CPU."""
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def over_union(a: Corners, b: Corners) -> tuple[Array, Array]:
    """Return intersection over union, and the union, of boxes that broadcast."""
    shared = _shared(a, b)
    union = _area(a) + _area(b) - shared
    return _divided(shared, union), union


def _pairs(a: Array, b: Array) -> tuple[Corners, Corners]:
    """Return the corners `[..., N, 1]` and `[..., 1, M]`."""
    a, b = checked(a), checked(b)
    if min(a.ndim, b.ndim) < 2:
        raise InputError(f"boxes of shapes {tuple(a.shape)} and {tuple(b.shape)}: must be [..., N, 4] and [..., M, 4]")
    a, b = aligned(a, b)
    return corners(a[..., :, None, :]), corners(b[..., None, :, :])


def _area(a: Corners) -> Array:
    return jnp.maximum(a[2] - a[0], 0) * jnp.maximum(a[3] - a[1], 0)


def _shared(a: Corners, b: Corners) -> Array:
    h, w = (jnp.maximum(jnp.minimum(a[i + 2], b[i + 2]) - jnp.maximum(a[i], b[i]), 0) for i in (0, 1))
    return h * w


def _divided(a: Array, b: Array) -> Array:
    """Return `a / b`, and 0 with gradient 0 where `b` is 0; NaN stays NaN."""
    empty = b <= TINY
    return jnp.where(empty, 0, a) / jnp.where(empty, 1, b)
