"""Rows of images with boxes, whatever the format of the annotations: one shape, padded boxes, and the way back."""

import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.box_checks import Boxes, Tally, mended, upright
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, sides, taken
from jaxcnn.data.crops import Sides
from jaxcnn.data.image import Resize
from jaxcnn.data.letterbox import image_box, letterbox
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import Form, Reader, each, guarded, relative
from jaxcnn.data.splitting import parted

MOST_BOXES = 10_000  # boxes of one image, if `max_boxes` does not limit them
log = logging.getLogger("jaxcnn")


class Annotation(NamedTuple):
    """What a file states about one image.

    Attributes:
        file: the image.
        stated: its boxes, in pixels, or in shares of the image as shown if `shares`.
        size: height and width of the image that the annotation states; None if it states none.
        shares: whether the boxes are shares of height and width.

    """

    file: pathlib.Path
    stated: Boxes
    size: Sides | None = None
    shares: bool = False


class Options(NamedTuple):
    """The options that all readers of boxes have; `jaxcnn.data.voc` describes them."""

    size: int | tuple[int, int] | None
    resize: Resize
    channels: int | None
    max_boxes: int | None
    seed: int
    validation_fraction: float
    test_fraction: float
    group: str | None
    resident_bytes: int
    on_bad: OnBad | None


class Row(NamedTuple):
    """One image: what it is read from, its boxes in the row, its height and width, and where it lies in the row."""

    item: Any
    boxes: Boxes
    size: Sides
    place: np.ndarray


def boxes(pairs: Sequence[Sequence[float]], labels: Sequence[int], crowd: Sequence[bool] | None = None) -> Boxes:
    """Return `Boxes` from lists; `pairs` are yxyx."""
    label = np.asarray(labels, np.int64).reshape(-1)
    regions = np.zeros(len(label), bool) if crowd is None else np.asarray(crowd, bool).reshape(-1)
    return Boxes(np.asarray(pairs, np.float64).reshape(-1, 4), label, regions)


def detection(
    listed: Mapping[str, Sequence[Annotation]], classes: tuple[str, ...], options: Options, top: pathlib.Path
) -> Splits:
    """Return the parts of a detection set.

    Args:
        listed: dict from part, among them `train`, to its images.
        classes: class names in order of label.
        options: see there.
        top: folder that the names of the rows are relative to.

    Raises:
        InputError: An option is out of range, images have different sizes and `size` is not given, or an image is not
            readable and `on_bad` is None.

    """
    check_options(options, classes, top)
    files = [a.file for some in listed.values() for a in some]
    if not files:
        raise InputError(f"{visible(top)}: no annotated image; check the folder")
    reader = Reader(files, Form(sides(options.size), options.resize, channels=options.channels), options.on_bad)
    if not reader.heads:
        reader.looked_at(files)
    tally = Tally()

    def fit(annotation: Annotation) -> Row:
        file, size, stated = annotation.file, reader.heads[annotation.file].size, annotation.stated
        pixels = stated.boxes * np.tile(size, 2) if annotation.shares else stated.boxes
        pixels = pixels if annotation.shares else upright(pixels, annotation.size, size, file)
        return placed(file, stated._replace(boxes=pixels), size, reader.size, options, tally, file)

    fitted = guarded(fit, options.on_bad)
    found = {
        part: [row for a in some if a.file in reader.heads and (row := fitted(a))] for part, some in listed.items()
    }
    tally.tell(top)
    shape = (*reader.size, 1 if reader.mode == "L" else 3)
    make = Maker(reader.decode, shape, classes, found, options, top)
    held = {part: make.data(rows, tuple(relative(row.item, top) for row in rows), part) for part, rows in found.items()}
    splits = parted(held, options.seed, options.validation_fraction, options.test_fraction, options.group)
    tell_copies(splits, visible(top), top=top)
    return splits


def placed(
    item: Any, stated: Boxes, size: Sides, row: Sides, options: Options, tally: Tally, name: pathlib.PurePath
) -> Row:
    """Bring the boxes of an image into its row.

    Args:
        item: what the image is read from.
        stated: its boxes, in pixels of the image.
        size: height and width of the image.
        row: height and width of the row.
        options: see there.
        tally: counts what was left out or mended; it is updated.
        name: name of the image, for the log.

    """
    kept = mended(stated, size, name, tally, options.max_boxes)
    place = image_box(size, row, options.resize)
    return Row(item, kept._replace(boxes=letterbox(kept.boxes, size, place)), size, place)


def check_options(options: Options, classes: tuple[str, ...], where: pathlib.PurePath) -> None:
    """Refuse options that are out of range, and classes that are none or not different.

    Raises:
        InputError: see above.

    """
    if options.resize not in ("pad", "squash"):
        raise InputError(f'resize={options.resize!r}: must be "pad" or "squash"; others would cut boxes')
    if options.max_boxes is not None and options.max_boxes < 1:
        raise InputError(f"max_boxes={options.max_boxes}: must be at least 1, or None for as many as there are")
    if not classes:
        raise InputError(f"{visible(where)}: no object in any image, so no classes; give classes=")
    if len(set(classes)) < len(classes):
        again = next(name for i, name in enumerate(classes) if name in classes[:i])
        raise InputError(f"{visible(where)}: the class {visible(again)[:80]!r} is there twice; give each name once")


class Maker:
    """Makes data sets from rows: images are decoded, boxes padded to one number.

    Args:
        decode: function from the item of a row to its image `[H, W, C]`, uint8; raises `InputError`.
        shape: height, width and channels of the rows.
        classes: class names in order of label.
        found: dict from part to rows.
        options: see there.
        where: the data set, for messages.

    Raises:
        InputError: An image has more boxes than any photo shows, and `max_boxes` is not given.

    """

    def __init__(
        self, decode: Callable[[Any], np.ndarray], shape: tuple[int, int, int], classes: tuple[str, ...],
        found: Mapping[str, Sequence[Row]], options: Options, where: pathlib.PurePath,
    ) -> None:  # fmt: skip
        rows = [row for some in found.values() for row in some]
        self.crowded = any(row.boxes.crowd.any() for row in rows)
        self.most = max((len(row.boxes.label) for row in rows), default=0)
        if self.most > MOST_BOXES and options.max_boxes is None:
            item = next(row.item for row in rows if len(row.boxes.label) == self.most)
            fix = f"{self.most:,} boxes, more than {MOST_BOXES:,}; correct it, or give max_boxes="
            raise InputError(f"{visible(where)}: {visible(getattr(item, 'name', item))}: {fix}")
        self.most = max(self.most, 1) if options.max_boxes is None else options.max_boxes
        self.decode, self.shape, self.classes, self.options, self.where = decode, shape, classes, options, where

    def padded(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Return all entries of rows but the image."""
        n, m = len(rows), self.most
        out = {
            "boxes": np.zeros((n, m, 4), np.float32),
            "box_label": np.zeros((n, m), np.int32),
            "box_mask": np.zeros((n, m), np.float32),
        } | ({"box_crowd": np.zeros((n, m), np.float32)} if self.crowded else {})
        for i, row in enumerate(rows):
            k = len(row.boxes.label)
            out["boxes"][i, :k], out["box_label"][i, :k], out["box_mask"][i, :k] = row.boxes.boxes, row.boxes.label, 1
            if self.crowded:
                out["box_crowd"][i, :k] = row.boxes.crowd
        size = np.array([row.size for row in rows], np.int32).reshape(n, 2)
        return out | {"image_size": size, "image_box": np.array([row.place for row in rows], np.float32).reshape(n, 4)}

    def read(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """Return rows; those that are not readable have `row_mask = 0` and no boxes."""
        found = each(guarded(self.decode, self.options.on_bad), [row.item for row in rows])
        image, batch = np.zeros((len(rows), *self.shape), np.uint8), self.padded(rows)
        for i, pixels in enumerate(found):
            if pixels is None:
                batch["box_mask"][i] = 0
            else:
                image[i] = pixels
        good = np.array([pixels is not None for pixels in found], np.float32)
        return {"image": image, **batch} | ({} if self.options.on_bad is None else {"row_mask": good})

    def data(self, rows: Sequence[Row], names: tuple[str, ...], part: str) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit; otherwise read them as needed."""
        limit = self.options.resident_bytes
        if len(rows) * (int(np.prod(self.shape)) + 28 * self.most + 24) > limit:
            log.info("%d images are read as needed: decoded they take more than %d MiB", len(rows), limit >> 20)
            return Indexed(lambda index: self.read([rows[i] for i in index]), len(rows), self.classes, names=names)
        found = self.read(rows)
        kept = np.flatnonzero(found.pop("row_mask", np.ones(len(rows))))
        if not len(kept):
            raise InputError(f"{visible(self.where)}: no image of the {part} part is readable; replace them")
        return Resident({name: x[kept] for name, x in found.items()}, self.classes, names=taken(names, kept))
