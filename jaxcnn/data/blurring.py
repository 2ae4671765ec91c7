"""Blurs boxes that the user gives, such as faces, before images are shared."""

import os
import pathlib
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.drawing import png
from jaxcnn.data.folder import read_image

PASSES = 3  # of a moving mean, which together are close to a Gaussian


def blur_boxes(image: Any, boxes: Any, strength: float = 0.5) -> np.ndarray:
    """Blur the pixels inside boxes with moving means; pixels outside neither change nor show through.

    A blur removes detail, but no more than that: text and patterns that are larger than the moving mean may still be
    recognised. With `strength=1` little more than the mean colour is left.

    Args:
        image: `[H, W, C]`, uint8 0..255 or float 0..1.
        boxes: `[N, 4]`, yxyx as shares of the image in 0..1. A pixel that a box touches is blurred.
        strength: side of the moving mean, as a share of the box's longer side, above 0 and at most 1.

    Returns:
        A new image with the shape and dtype of the old one.

    Raises:
        InputError: a shape, a dtype or a box is wrong.

    """
    image, boxes = np.array(image), np.asarray(boxes, np.float64).reshape(-1, 4) if np.size(boxes) else np.zeros((0, 4))
    if image.ndim != 3 or not (image.dtype == np.uint8 or image.dtype.kind == "f"):
        raise InputError(f"image of shape {image.shape}, {image.dtype}: must be [H, W, C], uint8 0..255 or float 0..1")
    if not 0 < strength <= 1:
        raise InputError(f"strength={strength}: must be above 0 and at most 1")
    good = (boxes >= 0).all(1) & (boxes <= 1).all(1) & (boxes[:, :2] < boxes[:, 2:]).all(1)
    if not good.all():
        wrong = boxes[~good][0].tolist()
        raise InputError(f"box {wrong}: must be top, left, bottom, right as shares of the image in 0..1, in this order")
    sides = np.tile(image.shape[:2], 2)
    for box in boxes * sides:
        top, left, bottom, right = *np.floor(box[:2]).astype(int), *np.ceil(box[2:]).astype(int)
        part = image[top:bottom, left:right].astype(np.float64)
        reach = max(round(max(part.shape[:2]) * strength / 2), 1)
        for axis in (0, 1) * PASSES:
            part = _moving_mean(part, axis, reach)
        image[top:bottom, left:right] = np.rint(part) if image.dtype == np.uint8 else part
    return image


def blur_file(path: str | os.PathLike, boxes: Any, out: str | os.PathLike, strength: float = 0.5) -> None:
    """Blur boxes in an image file, and write the result as a PNG file without the metadata of the first.

    Args:
        path: an image file, which is read as a viewer shows it.
        boxes: see `blur_boxes`.
        out: the PNG file to write.
        strength: see `blur_boxes`.

    Raises:
        InputError: the file is no image, a box is wrong, or the result cannot be written.

    """
    if pathlib.Path(out).suffix.lower() != ".png":
        raise InputError(f"{visible(out)}: the result is a PNG file; name it .png")
    blurred = blur_boxes(read_image(pathlib.Path(path), 3), boxes, strength)
    try:
        files.write_bytes(out, png(blurred))
    except OSError as error:
        raise InputError(f"{visible(out)}: cannot be written ({error.strerror}); give another file") from error


def _moving_mean(x: np.ndarray, axis: int, reach: int) -> np.ndarray:
    """Average each value with `reach` neighbours on either side; the border repeats."""
    pads = [(reach + 1, reach) if i == axis else (0, 0) for i in range(x.ndim)]
    total = np.cumsum(np.pad(x, pads, mode="edge"), axis=axis)
    count = x.shape[axis]
    high = np.take(total, np.arange(2 * reach + 1, 2 * reach + 1 + count), axis)
    low = np.take(total, np.arange(count), axis)
    return (high - low) / (2 * reach + 1)
