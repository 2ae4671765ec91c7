"""Where an image lies in a row of another shape, and how boxes go there and back.

A row of a detection set has two entries for this: `"image_size"` `[2]`, height and width of the file in pixels as a
viewer shows it, and `"image_box"` `[4]`, the part of the row that the image fills, yxyx in 0..1. Augmentation leaves
both as they are, so they hold for rows as they were read.
"""

from typing import Any

import numpy as np

from jaxcnn.data.crops import Sides
from jaxcnn.data.image import Resize, shown


def image_box(image_size: Sides, size: Sides, resize: Resize = "pad") -> np.ndarray:
    """Return the part of a row that an image fills.

    Args:
        image_size: height and width of the image in pixels.
        size: height and width of the row in pixels.
        resize: `"pad"` keeps the shape of the image, in the middle of the row; `"squash"` fills the row.

    Returns:
        float64 `[4]`, yxyx in 0..1 of the row.

    """
    inner = shown(image_size, size, resize, 1.0, None).size
    start = [(n - m) // 2 for n, m in zip(size, inner, strict=True)]
    end = [s + m for s, m in zip(start, inner, strict=True)]
    return np.array([*start, *end], np.float64) / np.tile(size, 2)


def letterbox(boxes: Any, image_size: Any, image_box: Any) -> np.ndarray:
    """Bring boxes from pixels of the file to shares of the row.

    Args:
        boxes: `[..., N, 4]`, yxyx in pixels of the file; 0 is the upper or left border.
        image_size: `[..., 2]`, height and width of the file.
        image_box: `[..., 4]`, see the function `image_box`.

    Returns:
        float64 `[..., N, 4]`, yxyx in 0..1 of the row.

    """
    size, start, extent = _frame(image_size, image_box)
    return np.asarray(boxes, np.float64) / size * extent + start


def unletterbox(boxes: Any, image_size: Any, image_box: Any) -> np.ndarray:
    """Bring boxes from shares of the row back to pixels of the file; what lies beside the image is cut off.

    Args:
        boxes: `[..., N, 4]`, yxyx in 0..1 of the row, such as predictions.
        image_size: `[..., 2]`, `"image_size"` of the row.
        image_box: `[..., 4]`, `"image_box"` of the row.

    Returns:
        float64 `[..., N, 4]`, yxyx in pixels of the file, as a viewer shows it.

    """
    size, start, extent = _frame(image_size, image_box)
    return np.clip((np.asarray(boxes, np.float64) - start) / extent * size, 0, size)


def _frame(image_size: Any, image_box: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return size in pixels, start and extent in shares, each `[..., 1, 4]` for the four sides of a box."""
    size, box = np.asarray(image_size, np.float64)[..., None, :], np.asarray(image_box, np.float64)[..., None, :]
    start, end = box[..., :2], box[..., 2:]
    return np.tile(size, 2), np.tile(start, 2), np.tile(end - start, 2)
