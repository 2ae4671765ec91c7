"""Predictions per pixel in the pixels of the image file: what reading it resized, cropped or padded is undone."""

from collections.abc import Sequence

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.data.image import Resize, shown

UNKNOWN = 255  # of pixels that the network was not shown, or for which it computed NaN


def stored_classes(
    scores: np.ndarray, sides: Sequence[int], resize: Resize = "squash", crop_ratio: float = 1.0
) -> np.ndarray:
    """Return the class with the highest score for each pixel of an image file.

    Args:
        scores: logits or probabilities `[h, w, K]` of the network, with at most 255 classes.
        sides: height and width of the image in its file, as a viewer shows it.
        resize: how the image was resized to `h` x `w`, see `jaxcnn.data.image.decode`.
        crop_ratio: as there.

    Returns:
        uint8 `[H, W]`; 255 for pixels that were cut away, and where a score is NaN.

    """
    from PIL import Image

    height, width = scores.shape[:2]
    window, inner = shown((sides[0], sides[1]), (height, width), resize, crop_ratio, None)
    down, right = ((n - m) // 2 for n, m in zip((height, width), inner, strict=True))
    part = np.asarray(scores[down : down + inner[0], right : right + inner[1]], np.float32)
    top, left = max(round(window.top), 0), max(round(window.left), 0)
    low, far = min(round(window.top + window.height), sides[0]), min(round(window.left + window.width), sides[1])
    best, chosen = np.full((low - top, far - left), -np.inf, np.float32), np.zeros((low - top, far - left), np.uint8)
    unsound = np.zeros(best.shape, bool)
    for k in range(part.shape[-1]):  # one class at a time: all of them at the size of a photo may not fit in memory
        score = np.asarray(Image.fromarray(part[..., k]).resize((far - left, low - top), Image.Resampling.BILINEAR))
        unsound |= np.isnan(score)
        chosen[score > best] = k
        best = np.maximum(best, score)
    chosen[unsound] = UNKNOWN
    out = np.full(tuple(sides), UNKNOWN, np.uint8)
    out[top:low, left:far] = chosen
    return out


def shown_place(
    pixel: Sequence[float],
    sides: Sequence[int],
    row: Sequence[int],
    resize: Resize = "squash",
    crop_ratio: float = 1.0,
) -> tuple[int, int]:
    """Return the row and column at which the network is shown a pixel of an image file.

    Args:
        pixel: row and column in the file, as a viewer shows it, counted from 0.
        sides: height and width of the file.
        row: height and width of what the network is shown.
        resize: how the image was resized, see `jaxcnn.data.image.decode`.
        crop_ratio: as there.

    Raises:
        InputError: the file has no such pixel, or the network is not shown it.

    """
    if not all(0 <= x < n for x, n in zip(pixel, sides, strict=True)):
        raise InputError(f"row {pixel[0]}, column {pixel[1]}: must be within the {sides[0]} x {sides[1]} pixels")
    window, inner = shown((sides[0], sides[1]), (row[0], row[1]), resize, crop_ratio, None)
    at = ((pixel[0] + 0.5 - window.top) / window.height, (pixel[1] + 0.5 - window.left) / window.width)
    if not all(0 <= share < 1 for share in at):
        raise InputError(f"row {pixel[0]}, column {pixel[1]}: is cut away from the image; choose one nearer its middle")
    found = [int((n - m) // 2 + share * m) for n, m, share in zip(row, inner, at, strict=True)]
    return found[0], found[1]
