"""Boxes with labels and scores, drawn on their image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.drawing import palette, rgb

Corners = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def draw_boxes(
    image: Any,
    detections: Mapping[str, Any],
    classes: Sequence[str] = (),
    *,
    true: Mapping[str, Any] | None = None,
    least_score: float = 0.0,
    colours: Any = None,
) -> np.ndarray:
    """Draw the detections of one image, each with its class and score.

    Args:
        image: `[H, W, C]`, uint8 or float 0..1, gray or colour.
        detections: `"boxes" [M, 4]`, yxyx as shares of height and width; `"labels" [M]`, `"scores" [M]` and
            `"box_mask" [M]` where there are any. Entries whose `box_mask` is 0 may hold anything.
        classes: names of the classes, in order of label; numbers without them.
        true: the true boxes, `"boxes"`, and perhaps `"box_label"` and `"box_mask"`, which are drawn dashed.
        least_score: boxes with lower scores are left out.
        colours: uint8 `[K, 3]`, one for each class; by default those of `palette` without black.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        InputError: shapes do not fit, a box that counts is not finite, or a class has no colour.

    """
    from PIL import Image, ImageDraw

    pixels = rgb(image)
    found, wanted = _checked(detections, "labels", pixels.shape), _checked(true or {}, "box_label", pixels.shape)
    kept = [one for one in found if one[2] is None or one[2] >= least_score]
    most = max([len(classes) - 1, *(label for _, label, _ in [*kept, *wanted])])
    table = palette(min(most + 2, 255))[1:] if colours is None else np.asarray(colours)
    if len(table) <= most:
        raise InputError(f"colours for {len(table)} classes: there is a box of class {most}; give one for each")
    picture = Image.fromarray(pixels)
    pen, line = ImageDraw.Draw(picture), max(1, round(min(pixels.shape[:2]) / 200))
    for corners, label, _ in wanted:
        _dashed(pen, corners, tuple(table[label].tolist()), line)
    for corners, label, score in sorted(kept, key=lambda one: one[2] or 0.0):  # the surest one on top
        colour = tuple(table[label].tolist())
        pen.rectangle(_widened(corners, line), outline=(0, 0, 0), width=line)
        pen.rectangle(corners, outline=colour, width=line)
        name = visible(classes[label]) if label < len(classes) else str(label)
        _write(pen, f"{name} {score:.2f}" if score is not None else name, corners, colour, picture.size)
    return np.asarray(picture)


def _checked(boxes: Mapping[str, Any], labels: str, shape: Sequence[int]) -> list[tuple[Corners, int, float | None]]:
    """Return the corners, the class and the score of each box that counts."""
    if not boxes:
        return []
    corners = np.asarray(boxes["boxes"], np.float64)
    if corners.ndim != 2 or corners.shape[-1] != 4:
        raise InputError(f"boxes of shape {corners.shape}: must be [M, 4], those of one image")
    n = len(corners)
    mask, label = np.asarray(boxes.get("box_mask", np.ones(n))) > 0, np.asarray(boxes.get(labels, np.zeros(n, int)))
    scores = np.asarray(boxes["scores"], np.float64) if "scores" in boxes else None
    for name, given in (("box_mask", mask), (labels, label), ("scores", label if scores is None else scores)):
        if given.shape != (n,):
            raise InputError(f"{name} of shape {given.shape}: must be ({n},), one for each box")
    used = np.flatnonzero(mask)
    finite = np.isfinite(corners[used]).all() and (scores is None or np.isfinite(scores[used]).all())
    if not finite or (label[used] < 0).any():
        raise InputError("boxes: one that counts is not finite, or has a negative label; set its box_mask to 0")
    sides = np.array([shape[0] - 1, shape[1] - 1] * 2)
    places = (corners[used].clip(0, 1) * (sides + 1) - [0, 0, 1, 1]).round().clip(0, sides).astype(int)
    boxed = [(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)) for y0, x0, y1, x1 in places.tolist()]
    each = [None] * len(used) if scores is None else scores[used].tolist()
    return list(zip(boxed, label[used].astype(int).tolist(), each, strict=True))


def _widened(corners: Corners, by: int) -> Corners:
    left, top, right, bottom = corners
    return left - by, top - by, right + by, bottom + by


def _dashed(pen: Any, corners: Corners, colour: tuple[int, ...], line: int) -> None:
    left, top, right, bottom = corners
    dash = 4 * line
    for x in range(left, right + 1, 2 * dash):
        for y in (top, bottom):
            pen.line([(x, y), (min(x + dash, right), y)], fill=colour, width=line)
    for y in range(top, bottom + 1, 2 * dash):
        for x in (left, right):
            pen.line([(x, y), (x, min(y + dash, bottom))], fill=colour, width=line)


def _write(pen: Any, text: str, corners: Corners, colour: tuple[int, ...], size: tuple[int, int]) -> None:
    """Write a label on the colour of its class: above the box, or inside it where there is no room."""
    from PIL import ImageFont

    font = ImageFont.load_default(max(10, round(min(size) / 32)))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = round(right - left) + 4, round(bottom - top) + 4
    x = max(0, min(corners[0], size[0] - width))
    y = corners[1] - height if corners[1] >= height else corners[1]
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + 2 - left, y + 2 - top), text, fill=(0, 0, 0) if bright else (255, 255, 255), font=font)
