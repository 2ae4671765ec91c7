"""Boxes as files state them, made sound: clipped or left out, with a count of each kind for one line of the log."""

import collections
import logging
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.crops import Sides
from jaxcnn.data.image_file import opened_image

SMALLEST = 0.01  # pixels; a box with a shorter side has no area
ROUNDING = 0.01  # pixels that a box may reach over the border before it counts as clipped
log = logging.getLogger("jaxcnn")


class Boxes(NamedTuple):
    """The boxes of one image.

    Attributes:
        boxes: float64 `[n, 4]`, yxyx in pixels of the image.
        label: int `[n]`, class of each.
        crowd: bool `[n]`, whether it marks a region that counts neither way.

    """

    boxes: np.ndarray
    label: np.ndarray
    crowd: np.ndarray

    def take(self, index: np.ndarray) -> "Boxes":
        """Return some of the boxes."""
        return Boxes(*(x[index] for x in self))


class Tally:
    """Counts what was left out or mended, with the first file of each kind."""

    def __init__(self) -> None:
        self.count: collections.Counter[str] = collections.Counter()
        self.first: dict[str, str] = {}
        self.boxes = 0

    def add(self, kind: str, count: int, file: pathlib.PurePath) -> None:
        """Count boxes of a kind."""
        if count:
            self.count[kind] += count
            self.first.setdefault(kind, visible(file.name))

    def tell(self, where: pathlib.PurePath) -> None:
        """Log one line, if anything was left out or mended."""
        clipped = self.count.pop("clipped", 0)
        kinds = [f"{n} {kind} (the first: {self.first[kind]})" for kind, n in self.count.most_common()]
        lines = [f"{self.count.total()} of {self.boxes} boxes are left out: {', '.join(kinds)}"] if kinds else []
        if clipped:
            lines.append(f"{clipped} reach over the border and are clipped (the first: {self.first['clipped']})")
        if lines:
            log.warning("%s: %s", visible(where), "; ".join(lines))


def mended(stated: Boxes, size: Sides, file: pathlib.PurePath, tally: Tally, most: int | None) -> Boxes:
    """Clip boxes at the border of their image, and leave out those that cannot be meant.

    These are boxes with NaN or infinity, boxes that end before they begin, boxes without area, boxes outside the image,
    repeated boxes, and, if there are more than `most`, the smallest ones.

    Args:
        stated: the boxes.
        size: height and width of the image.
        file: the image, for the log.
        tally: counts what was left out or clipped; it is updated.
        most: largest number of boxes to keep; None for all.

    """
    tally.boxes += len(stated.boxes)
    edge = np.tile(np.asarray(size, np.float64), 2)
    for kind, wrong in (
        ("with NaN or infinity", lambda b: ~np.isfinite(b).all(-1)),
        ("inverted", lambda b: (b[:, 2:] < b[:, :2]).any(-1)),
        ("without area", lambda b: (b[:, 2:] - b[:, :2] < SMALLEST).any(-1)),
    ):
        stated = _without(stated, wrong(stated.boxes), kind, file, tally)
    over = ((stated.boxes < -ROUNDING) | (stated.boxes > edge + ROUNDING)).any(-1)
    stated = stated._replace(boxes=np.clip(stated.boxes, 0, edge))
    outside = np.any(stated.boxes[:, 2:] - stated.boxes[:, :2] < SMALLEST, axis=-1)
    stated = _without(stated, outside, "outside the image", file, tally)
    tally.add("clipped", int((over & ~outside).sum()), file)
    keys = np.column_stack([stated.boxes, stated.label, stated.crowd])
    again = np.ones(len(keys), bool)
    again[np.unique(keys, axis=0, return_index=True)[1]] = False
    stated = _without(stated, again, "repeated", file, tally)
    if most is None or len(stated.boxes) <= most:
        return stated
    area = np.prod(stated.boxes[:, 2:] - stated.boxes[:, :2], -1)
    small = np.ones(len(area), bool)
    small[np.argsort(-area, kind="stable")[:most]] = False
    return _without(stated, small, f"beyond max_boxes={most}, the smallest of their images", file, tally)


def _without(stated: Boxes, wrong: Any, kind: str, file: pathlib.PurePath, tally: Tally) -> Boxes:
    tally.add(kind, int(wrong.sum()), file)
    return stated.take(~wrong) if wrong.any() else stated


def upright(boxes: np.ndarray, stated: Sides | None, size: Sides, file: pathlib.Path) -> np.ndarray:
    """Bring boxes to the pixels of the image as a viewer shows it.

    Annotations made with labelImg, CVAT or Ultralytics refer to the image as it is shown, turned by its EXIF. Where a
    file states height and width of the pixels as they are stored instead, its boxes are turned with the image.

    Args:
        boxes: float64 `[n, 4]`, yxyx in pixels.
        stated: height and width that the annotation states; None if it states none.
        size: height and width of the image as shown.
        file: the image.

    Raises:
        InputError: The image has another size than the annotation states.

    """
    turn = turn_of(file, stated, size)
    if turn == 1 or stated is None:
        return boxes
    (height, width), (y0, x0, y1, x1) = stated, boxes.T
    if turn in (6, 7):  # the upper border becomes the right one
        y0, y1 = height - y1, height - y0
    if turn in (7, 8):
        x0, x1 = width - x1, width - x0
    return np.stack([x0, y0, x1, y1], -1)


def turn_of(file: pathlib.Path, stated: Sides | None, size: Sides) -> int:
    """Return how annotations are to be turned with their image, 5 to 8 as in EXIF, or 1 if they are upright.

    Args:
        file: the image.
        stated: height and width that the annotation states; None if it states none.
        size: height and width of the image as shown.

    Raises:
        InputError: The image has another size than the annotation states.

    """
    if stated is None or stated == size:
        return 1
    with opened_image(file) as (_, turn):
        pass
    if turn < 5 or stated != size[::-1]:
        sizes = f"{size[0]} x {size[1]} pixels (height, width), but its annotation states {stated[0]} x {stated[1]}"
        raise InputError(f"{visible(file)}: {sizes}; the objects would be elsewhere: correct one of them")
    return turn
