"""COCO's regions as a class per pixel, for semantic segmentation.

Reference: Lin et al., 2014, arXiv:1405.0312.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.box_checks import turn_of
from jaxcnn.data.coco import Id, Parsed, class_names, image_folder, is_crowd, located, parse
from jaxcnn.data.coco_regions import region
from jaxcnn.data.core import OnBad, Splits, sides
from jaxcnn.data.crops import Sides
from jaxcnn.data.image import Resize, turned
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.pixel_labels import resized, rows
from jaxcnn.data.reader import Form, Reader, relative
from jaxcnn.data.splitting import parted

BACKGROUND = "background"


class _Item(NamedTuple):
    """An image, the height and width that its JSON states, and its objects."""

    file: pathlib.Path
    size: Sides | None
    objects: Sequence[Mapping[str, Any]]
    label: Mapping[Id, int]


def coco_masks(
    path: str | pathlib.Path,
    *,
    images: str | None = None,
    annotations: str | None = None,
    classes: Sequence[str] | None = None,
    ignore_label: int = 255,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "squash",
    channels: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load images and a class per pixel from COCO's polygons and run lengths, packed or not.

    Class 0 is the background, the categories follow from 1. Where objects overlap, the smaller one is on top. Pixels
    of a region with `iscrowd` that belong to no object have `ignore_label`. Pixels inside a polygon are those that
    pycocotools finds. Rows have `"image"` `[H, W, C]` and `"mask"` `[H, W]`, uint8.

    Args:
        path: see `jaxcnn.data.coco`, where the layouts are described.
        images: see there.
        annotations: see there.
        classes: names of the categories in order of label, without the background; by default all, in order of ids.
        ignore_label: label of pixels without a class, 0..255.
        size: height and width to which everything is resized, or one number for both; required if sizes differ. Masks
            take the nearest pixel.
        resize: how, see `jaxcnn.data.image.decode`; `"pad"` surrounds masks with `ignore_label`.
        channels: 1 for gray, 3 for RGB; by default 1 if all images are gray.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if there is no part for them.
        test_fraction: share of all rows to test on, if there is no part for them.
        group: see `jaxcnn.data.voc`.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each image that is not there, not readable or has a region that is
            not, which is then left out (or has `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: A file is missing or not readable, an image has another size than its JSON states, a region is not
            one, or a category is not in `classes`.

    """
    top, found = located(path, annotations)
    parsed = {part: parse(file) for part, file in found.items()}
    names = (BACKGROUND, *class_names(parsed, classes, top))
    if not len(names) <= ignore_label <= 255:
        raise InputError(f"ignore_label={ignore_label}: must be in {len(names)}..255, beyond the classes")
    listed = {part: _items(x, image_folder(x, found[part], top, images), names) for part, x in parsed.items()}
    files = [item.file for items in listed.values() for item in items]
    if not files:
        raise InputError(f"{visible(top)}: no image in its JSON files; check them")
    reader = Reader(files, Form(sides(size), resize, channels=channels), on_bad)
    if not reader.heads:
        reader.looked_at(files)
    shape = (*reader.size, 1 if reader.mode == "L" else 3)

    def row(item: _Item) -> tuple[np.ndarray, np.ndarray]:
        labels = _painted(item, reader.heads[item.file].size, ignore_label)
        return reader.decode(item.file), resized(labels, reader.form, ignore_label)

    held = {}
    for part, items in listed.items():
        items = [item for item in items if item.file in reader.heads]
        inside = tuple(relative(item.file, top) for item in items)
        held[part] = rows(row, items, shape, ignore_label, names, inside, resident_bytes, on_bad, top)
    splits = parted(held, seed, validation_fraction, test_fraction, group)
    tell_copies(splits, visible(top), top=top)
    return splits


def _items(parsed: Parsed, root: pathlib.Path, names: tuple[str, ...]) -> list[_Item]:
    label = {number: names.index(name) for number, name in parsed.categories.items() if name in names}
    return [
        _Item(root / name, size, parsed.objects.get(number, []), label)
        for number, (name, size) in parsed.images.items()
    ]


def _painted(item: _Item, size: Sides, ignore_label: int) -> np.ndarray:
    """Return the labels of an image as it is shown, uint8 `[H, W]`."""
    from PIL import Image

    turn, stated = turn_of(item.file, item.size, size), item.size or size
    labels, smallest = np.zeros(stated, np.uint8), np.full(stated, stated[0] * stated[1] + 1)
    crowd = np.zeros(stated, bool)
    for entry in item.objects:
        try:
            inside, group = region(entry.get("segmentation"), stated), is_crowd(entry)
        except InputError as error:
            raise InputError(f"{visible(item.file)}: {error}") from None
        if group:
            crowd |= inside
            continue
        area = int(inside.sum())
        over = inside & (area <= smallest)
        labels[over], smallest[over] = item.label[entry["category_id"]], area
    labels[crowd & (labels == 0)] = ignore_label
    return np.asarray(turned(Image.fromarray(labels), turn))
