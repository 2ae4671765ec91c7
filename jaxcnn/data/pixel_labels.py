"""Rows of images with a label per pixel, whatever the labels are made from: resized with their images, held or read."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.core import Indexed, OnBad, Resident, taken
from jaxcnn.data.crops import Sides
from jaxcnn.data.image import shown
from jaxcnn.data.reader import Form, each, guarded


def resized(labels: np.ndarray, form: Form, fill: int) -> np.ndarray:
    """Resize labels as `jaxcnn.data.image.decode` resizes their image; each pixel takes the nearest label.

    Args:
        labels: uint8 `[H, W]`.
        form: how images become rows.
        fill: label of the pixels beside the image, with `resize="pad"`.

    Returns:
        uint8 in the size of the rows.

    """
    from PIL import Image

    if form.size is None:
        return labels
    stored = labels.shape[0], labels.shape[1]
    (top, left, high, wide), inner = shown(stored, form.size, form.resize, form.crop_ratio, None)
    box = (max(left, 0), max(top, 0), min(left + wide, stored[1]), min(top + high, stored[0]))
    small = Image.fromarray(labels).resize((inner[1], inner[0]), Image.Resampling.NEAREST, box=box)
    out = np.full(form.size, fill, np.uint8)
    down, right = ((n - m) // 2 for n, m in zip(form.size, inner, strict=True))
    out[down : down + inner[0], right : right + inner[1]] = np.asarray(small)
    return out


def rows(
    row: Callable[[Any], tuple[np.ndarray, np.ndarray]], items: Sequence[Any], shape: tuple[int, int, int], fill: int,
    classes: tuple[str, ...], names: tuple[str, ...], resident_bytes: int, on_bad: OnBad | None, where: pathlib.Path,
) -> Resident | Indexed:  # fmt: skip
    """Hold the rows of a part in memory if they fit; otherwise read them as needed.

    Args:
        row: function from an item to an image `[H, W, C]` and its labels `[H, W]`, uint8; raises `InputError`.
        items: what the rows are made from.
        shape: height, width and channels of the rows.
        fill: label of the pixels of a row that is not readable.
        classes: class names in order of label.
        names: names of the rows.
        resident_bytes: most decoded bytes to hold in memory.
        on_bad: called with a message and a count for each row that is not readable; None to raise.
        where: the data set, for messages.

    Raises:
        InputError: No row is readable.

    """
    made, size = guarded(row, on_bad), shape[:2]

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        found = each(made, [items[i] for i in index])
        image, mask = np.zeros((len(found), *shape), np.uint8), np.full((len(found), *size), fill, np.uint8)
        for i, both in enumerate(found):
            if both is not None:
                image[i], mask[i] = both
        good = np.array([both is not None for both in found], np.float32)
        return {"image": image, "mask": mask} | ({} if on_bad is None else {"row_mask": good})

    if len(items) * size[0] * size[1] * (shape[2] + 1) > resident_bytes:
        return Indexed(read, len(items), classes, names=names)
    found = read(np.arange(len(items)))
    kept = np.flatnonzero(found.pop("row_mask", np.ones(len(items))))
    if not len(kept):
        raise InputError(f"{visible(where)}: no pair of image and mask is readable; replace them")
    return Resident({name: x[kept] for name, x in found.items()}, classes, names=taken(names, kept))


def stated_size(labels: np.ndarray, size: Sides, where: str) -> None:
    """Refuse labels of another height or width than their image."""
    if labels.shape[:2] != size:
        sizes = f"{labels.shape[0]} x {labels.shape[1]} pixels, its image {size[0]} x {size[1]}"
        raise InputError(f"{where}: a mask of {sizes}; they must have one size")
