"""Regions of COCO's objects as pixels: run lengths, packed or not, and polygons, as pycocotools decodes them.

Runs go down the columns, first of zeros, then of ones. A packed text has five bits of a run in each character, and from
the fourth run on its difference to the one before the last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.crops import Sides

FINER = 5  # steps of a polygon's border per pixel
FAR = 2**20  # pixels; no point of a polygon is further away
LONGEST = 2**26  # steps of a polygon's border
CHARACTERS = 12  # of a packed run


def region(segmentation: Any, size: Sides) -> np.ndarray:
    """Return the pixels of an object.

    Args:
        segmentation: what the JSON file states: a list of polygons `[x, y, x, y, ...]` in pixels, or an object with
            `size` (height, width) and `counts`, a list of runs or a packed text.
        size: height and width of the image.

    Returns:
        bool `[H, W]`.

    Raises:
        InputError: It is none of these, or of another size.

    """
    if isinstance(segmentation, dict):
        stated, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(stated, list) or stated != list(size):
            raise InputError(f"segmentation of size {visible(stated)[:40]}, its image {list(size)}; must be the same")
        runs = unpacked(counts) if isinstance(counts, str) else counts
        if not isinstance(runs, list) or not all(type(n) is int and n >= 0 for n in runs):
            raise InputError(f"counts {visible(counts)[:60]}: must be runs of pixels, or a packed text")
        return from_runs(runs, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise InputError(f"segmentation {visible(segmentation)[:60]}: must be polygons, or runs of pixels")
    return np.logical_or.reduce([from_polygon(points, size) for points in segmentation])


def unpacked(text: str) -> list[int]:
    """Return the runs of a packed text.

    Raises:
        InputError: It has another character, or ends within a run.

    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * CHARACTERS:
            raise InputError(f"counts {visible(text)[:60]!r}: not packed runs")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise InputError(f"counts {visible(text)[-60:]!r}: ends within a run")
    return runs


def from_runs(runs: Sequence[int], size: Sides) -> np.ndarray:
    """Return pixels from their runs.

    Raises:
        InputError: The runs are more or fewer pixels than the image has.

    """
    height, width = size
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise InputError(f"runs of {sum(runs)} pixels for {height} x {width}; must be as many")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def from_polygon(points: Any, size: Sides) -> np.ndarray:
    """Return the pixels of a polygon.

    Its border is walked in steps of a fifth of a pixel. Where a step crosses the middle of a column, all pixels of the
    column below that place change between inside and outside.

    Args:
        points: `[x, y, x, y, ...]` in pixels, at least three points.
        size: height and width of the image.

    Raises:
        InputError: It is not a polygon.

    """
    whole = isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
    if not whole or not all(type(n) in (int, float) and abs(n) < FAR for n in points):
        raise InputError(f"polygon {visible(points)[:60]}: must be the x and y of at least three points")
    corners = (FINER * np.asarray(points, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    x, y = _border(corners)
    back = np.minimum(x[1:], x[:-1])  # the finer column to the left of each crossing
    crossing, (height, width) = (x[1:] != x[:-1]) & (back % FINER == FINER // 2), size
    column = back // FINER
    inside = crossing & (column >= 0) & (column < width)
    row = np.ceil((np.minimum(y[1:], y[:-1]) + 0.5) / FINER - 0.5)
    place = column[inside] * height + np.clip(row[inside], 0, height).astype(np.int64)
    changes = np.bincount(place, minlength=height * width + 1)[: height * width]
    return (np.cumsum(changes) % 2 == 1).reshape(width, height).T


def _border(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of the border of a polygon in steps of one, each edge with both its ends."""
    xs, ys, ends = [], [], np.roll(corners, -1, axis=0)
    if np.abs(ends - corners).max(1).sum() > LONGEST:
        raise InputError(f"a polygon with a border of more than {LONGEST // FINER:,} pixels; correct it")
    for (x0, y0), (x1, y1) in zip(corners.tolist(), ends.tolist(), strict=True):
        far = max(abs(x1 - x0), abs(y1 - y0))
        along, turned = np.arange(far + 1), abs(x1 - x0) < abs(y1 - y0)
        (a0, b0), (a1, b1) = ((y0, x0), (y1, x1)) if turned else ((x0, y0), (x1, y1))
        low, flip = (min(a0, a1), b1 if a1 < a0 else b0), a1 < a0  # an edge has the same points in either direction
        other = b0 if flip else b1
        a = low[0] + along
        b = np.trunc(low[1] + (other - low[1]) / max(far, 1) * along + 0.5).astype(np.int64)
        a, b = (a[::-1], b[::-1]) if flip else (a, b)
        xs.append(b if turned else a)
        ys.append(a if turned else b)
    return np.concatenate(xs), np.concatenate(ys)
