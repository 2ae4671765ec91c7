"""Predictions per pixel in the pixels of the image file: what reading it resized, cropped or padded is undone."""

from collections.abc import Sequence

import numpy as np

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
