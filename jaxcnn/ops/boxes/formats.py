"""Boxes of other formats, COCO's, Pascal VOC's and YOLO's, to yxyx as shares of the image, and back.

The functions take JAX arrays, which stay on the device; anything else becomes a NumPy array.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxcnn.core.types import InputError


def from_coco(boxes: Any, *, height: Any, width: Any) -> Any:
    """Convert COCO's boxes, (x, y, width, height) in pixels, to yxyx in 0..1.

    Args:
        boxes: `[..., 4]`.
        height: of the image in pixels: a number, or an array that broadcasts with `[...]`.
        width: the same.

    Returns:
        `[..., 4]`, floats.

    Raises:
        InputError: `boxes` does not hold boxes, or a size is not positive.

    """
    (x, y, w, h), xp, (height, width) = _columns(boxes, height, width)
    return xp.stack([y / height, x / width, (y + h) / height, (x + w) / width], -1)


def to_coco(boxes: Any, *, height: Any, width: Any) -> Any:
    """Convert yxyx in 0..1 to COCO's boxes, (x, y, width, height) in pixels; arguments as in `from_coco`."""
    (y0, x0, y1, x1), xp, (height, width) = _columns(boxes, height, width)
    return xp.stack([x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height], -1)


def from_voc(boxes: Any, *, height: Any, width: Any) -> Any:
    """Convert Pascal VOC's boxes to yxyx in 0..1; arguments as in `from_coco`.

    VOC's boxes are (xmin, ymin, xmax, ymax): the first and the last pixel that belong to the box, counted from 1.
    """
    (x0, y0, x1, y1), xp, (height, width) = _columns(boxes, height, width)
    return xp.stack([(y0 - 1) / height, (x0 - 1) / width, y1 / height, x1 / width], -1)


def to_voc(boxes: Any, *, height: Any, width: Any) -> Any:
    """Convert yxyx in 0..1 to Pascal VOC's boxes, see `from_voc`; they are not rounded to whole pixels."""
    (y0, x0, y1, x1), xp, (height, width) = _columns(boxes, height, width)
    return xp.stack([x0 * width + 1, y0 * height + 1, x1 * width, y1 * height], -1)


def from_yolo(boxes: Any) -> Any:
    """Convert YOLO's boxes, (centre x, centre y, width, height) as shares of the image, to yxyx in 0..1."""
    (x, y, w, h), xp, _ = _columns(boxes, 1, 1)
    return xp.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)


def to_yolo(boxes: Any) -> Any:
    """Convert yxyx in 0..1 to YOLO's boxes, (centre x, centre y, width, height) as shares of the image."""
    (y0, x0, y1, x1), xp, _ = _columns(boxes, 1, 1)
    return xp.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], -1)


def _columns(boxes: Any, *sizes: Any) -> tuple[Any, ModuleType, list[Any]]:
    """Return the four numbers of each box, the array module that they belong to, and the sizes as arrays or numbers."""
    xp = jnp if any(isinstance(x, jax.Array) for x in (boxes, *sizes)) else np
    boxes = xp.asarray(boxes)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise InputError(f"boxes of shape {tuple(boxes.shape)}: must be [..., 4]")
    if not xp.issubdtype(boxes.dtype, xp.floating):
        boxes = boxes.astype(xp.float32 if xp is jnp else np.float64)
    for name, size in zip(("height", "width"), sizes, strict=True):
        if not isinstance(size, Tracer) and not (np.asarray(size) > 0).all():
            raise InputError(f"{name}={size}: must be positive, the size of the image in pixels")
    return xp.moveaxis(boxes, -1, 0), xp, [n if np.ndim(n) == 0 else xp.asarray(n, boxes.dtype) for n in sizes]
