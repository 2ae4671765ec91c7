"""TFDS sets with boxes (`objects` of `bbox` and `label`, as `voc` and `coco`) or masks, as `oxford_iiit_pet`."""

import functools
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.array_record import quiet
from jaxcnn.data.box_checks import Boxes, Tally
from jaxcnn.data.core import OnBad, Splits
from jaxcnn.data.crops import Sides
from jaxcnn.data.detection import Maker, Options, Row, check_options, placed
from jaxcnn.data.encoded import check_label, decode, opened_encoded, values_of
from jaxcnn.data.image import Resize
from jaxcnn.data.masks import Values, labels_of, value_table
from jaxcnn.data.pixel_labels import resized, rows, stated_size
from jaxcnn.data.reader import Form, each, guarded
from jaxcnn.data.splitting import parted
from jaxcnn.data.tfds_folder import check_features, check_image
from jaxcnn.data.tfds_records import Records, image_features, records_of, row_size

CROWDS = ("is_crowd", "is_difficult")  # features of an object that counts neither way
NAMES = ("image/filename", "file_name", "image/id")
log = logging.getLogger("jaxcnn")


@quiet()
def tfds_boxes(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "pad",
    max_boxes: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    resident_bytes: int = 2**30,
    download: bool = True,
    on_bad: OnBad | None = None,
) -> Splits:
    """Read a TFDS set of images with boxes, such as `"voc/2007"` or `"coco/2017"`, prepared as `array_record`.

    Its features are an `image` and `objects`, with `bbox` and `label`; objects with `is_crowd` or `is_difficult` are in
    `"box_crowd"`. All records are read once to find their boxes; images are decoded when they are needed, if they do
    not fit in memory. Rows, and what happens to boxes that cannot be meant, are as in `jaxcnn.data.voc`. A test split
    without any object, as that of `coco`, is replaced by the validation split.

    Args:
        name: name of the set, see `jaxcnn.data.tfds`.
        data_dir: see there.
        size: height and width of the rows, or one number for both; required if sizes of images differ.
        resize: see `jaxcnn.data.voc`.
        max_boxes: see there.
        seed: seed of the validation split.
        validation_fraction: share of the training rows to validate on, if the set has no validation split.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        download: whether a set that is not prepared may be downloaded.
        on_bad: called with a message and a count for each unreadable record, which is then left out (or has
            `row_mask = 0` if its image is read as needed); None to raise.

    Returns:
        The parts; `names` of each has the split and the name of the image's file, or the number of its record.

    Raises:
        InputError: The set has other features, is not there or not readable, or has no objects.

    """
    builder, features = image_features(name, data_dir)
    image, objects = features["image"], _objects(features, name)
    classes, size = tuple(objects["label"].names), row_size(image, size, name)
    options = Options(size, resize, None, max_boxes, seed, validation_fraction, 0.2, None, resident_bytes, on_bad)
    where, tally = pathlib.PurePath(name), Tally()
    check_options(options, classes, where)
    crowds, found, names = [key for key in CROWDS if key in objects], {}, {}
    for part, records in records_of(builder, name, download, on_bad).items():
        read = guarded(functools.partial(_stated, records, len(classes), crowds), on_bad)
        there = [(i, x) for i, x in enumerate(each(read, range(len(records)))) if x is not None]
        names[part] = tuple(f"{records.split}/{x.name}" for _, x in there)
        found[part] = [
            placed((records, i), x.boxes, x.size, size, options, tally, pathlib.PurePath(text))
            for (i, x), text in zip(there, names[part], strict=True)
        ]
    tally.tell(where)
    parts = _with_objects(found, name)
    shape = (*size, image.shape[-1] or 3)

    def pixels(item: tuple[Records, int]) -> np.ndarray:
        records, i = item
        return records.attempt(i, lambda record: decode(_bytes(values_of(record), "image"), shape, True, resize))

    make = Maker(pixels, shape, classes, found, options, where)
    held = {part: make.data(found[old], names[old], part) for part, old in parts.items()}
    return parted(held, seed, validation_fraction, 0.2)


@quiet()
def tfds_masks(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    classes: Sequence[str] | None = None,
    values: Values | None = None,
    ignore_label: int = 255,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "squash",
    seed: int = 0,
    validation_fraction: float = 0.1,
    resident_bytes: int = 2**30,
    download: bool = True,
    on_bad: OnBad | None = None,
) -> Splits:
    """Read a TFDS set of images with masks, such as `"oxford_iiit_pet"`, prepared as `array_record`.

    Its features are an `image` and a `segmentation_mask` of one channel. Rows are as in `jaxcnn.data.masks`.

    Args:
        name: name of the set, see `jaxcnn.data.tfds`.
        data_dir: see there.
        classes: class names in order of label; by default the numbers of the values.
        values: the pixel value of each class, in order of label, such as `(1, 2, 3)` for `oxford_iiit_pet`; by default
            a pixel's value is its class, and all masks are read to find the largest.
        ignore_label: see `jaxcnn.data.masks`.
        size: see there.
        resize: see there.
        seed: see `tfds_boxes`.
        validation_fraction: see there.
        resident_bytes: see there.
        download: see there.
        on_bad: see there.

    Returns:
        The parts; `names` of each has the split and the number of the record.

    Raises:
        InputError: The set has other features, is not there or not readable, or a pixel's value is no class.

    """
    import tensorflow_datasets as library

    builder, features = image_features(name, data_dir)
    image: Any = features["image"]
    mask: Any = features.get("segmentation_mask")
    channels = mask.shape[-1] if isinstance(mask, library.features.Image) else None  # pyright: ignore[reportIndexIssue]
    if channels != 1:
        raise InputError(f"dataset {name!r}: has {', '.join(features)}; needs a 'segmentation_mask' of one channel")
    check_image(mask, f"dataset {name!r}")
    size = row_size(image, size, name)
    form = Form(size, resize)
    if not 0 <= ignore_label <= 255:
        raise InputError(f"ignore_label={ignore_label}: must be in 0..255")
    found = records_of(builder, name, download, on_bad)
    if values is None:
        values = range(len(classes)) if classes is not None else range(1 + _largest(found, ignore_label, on_bad))
    table = value_table(values, ignore_label)
    given = tuple(classes) if classes is not None else tuple(map(str, values))
    if len(given) != len(table) or len(table) < 2:
        raise InputError(
            f"classes={given[:10]}: {len(given)} names for {len(table)} values; give one for each, two or more"
        )
    shape = (*size, image.shape[-1] or 3)

    def row(item: tuple[Records, int]) -> tuple[np.ndarray, np.ndarray]:
        records, i = item
        return records.attempt(i, lambda record: _pair(values_of(record), shape, form, table, ignore_label))

    held = {}
    for part, records in found.items():
        items = [(records, i) for i in range(len(records))]
        names = tuple(f"{records.split}/{i}" for i in range(len(records)))
        held[part] = rows(row, items, shape, ignore_label, given, names, resident_bytes, on_bad, pathlib.Path(name))
    return parted(held, seed, validation_fraction, 0.2)


def _objects(features: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the features of an object."""
    import tensorflow_datasets as library

    sequence = features.get("objects")
    inside = getattr(sequence, "feature", None) if isinstance(sequence, library.features.Sequence) else None
    objects = dict(inside.items()) if hasattr(inside, "items") else {}  # pyright: ignore[reportOptionalMemberAccess]
    box, label = objects.get("bbox"), objects.get("label")
    if not isinstance(box, library.features.BBoxFeature) or not isinstance(label, library.features.ClassLabel):
        raise InputError(f"dataset {name!r}: has {', '.join(features)}; needs 'objects' with a 'bbox' and a 'label'")
    if getattr(box.bbox_format, "value", None) != "REL_YXYX":
        raise InputError(f"dataset {name!r}: boxes in the format {visible(box.bbox_format)}; must be REL_YXYX")
    check_features(features["image"], label, f"dataset {name!r}")
    return objects


class _Stated(NamedTuple):
    """What a record states: height and width of its image, boxes in pixels, and the name of the image."""

    size: Sides
    boxes: Boxes
    name: str


def _stated(records: Records, classes: int, crowds: Sequence[str], i: int) -> _Stated:
    """Read the boxes of a record."""

    def read(record: bytes) -> _Stated:
        values = values_of(record)
        with opened_encoded(_bytes(values, "image")) as image:
            size = image.height, image.width
        shares = np.array(values["objects/bbox"].float_list.value, np.float64)
        label = np.array(values["objects/label"].int64_list.value, np.int64)
        flags = [np.array(values[f"objects/{key}"].int64_list.value, np.int64) for key in crowds]
        if shares.size != 4 * len(label) or any(len(flag) != len(label) for flag in flags):
            raise InputError(f"{shares.size} numbers of boxes for {len(label)} labels; must be four each")
        check_label(label, classes)
        crowd = np.any([*flags, np.zeros(len(label))], axis=0)
        text = next((values[key].bytes_list.value[0] for key in NAMES if values[key].bytes_list.value), b"%d" % i)
        return _Stated(size, Boxes(shares.reshape(-1, 4) * np.tile(size, 2), label, crowd), visible(text))

    return records.attempt(i, read)


def _bytes(values: Mapping[str, Any], key: str) -> bytes:
    found = values[key].bytes_list.value
    if len(found) != 1:
        raise InputError(f"{len(found)} of {key!r} in an example; must be one")
    return found[0]


def _with_objects(found: Mapping[str, Sequence[Row]], name: str) -> dict[str, str]:
    """Return which split is which part; a test split without objects is one whose annotations are not published."""
    empty = {part for part, some in found.items() if not any(len(row.boxes.label) for row in some)}
    parts = {part: part for part in found}
    if "test" in empty and "valid" in found:
        log.warning("%s: no object in its test split, so the validation split is the test part", name)
        parts = {"train": "train", "test": "valid"}
    wrong = next((part for part, old in parts.items() if old in empty and part != "valid"), None)
    if wrong is not None:
        raise InputError(f"{name}: no object in the {wrong} part; its annotations may not be published")
    return parts


def _largest(found: Mapping[str, Records], ignore: int, on_bad: OnBad | None) -> int:
    """Return the largest value of all masks."""

    def one(records: Records, i: int) -> int:
        pixels = records.attempt(i, lambda record: _mask(values_of(record)))
        return int(pixels[pixels != ignore].max(initial=0))

    tried = guarded(one, on_bad)
    return max(n for x in found.values() for n in each(functools.partial(tried, x), range(len(x))) if n is not None)


def _mask(values: Mapping[str, Any]) -> np.ndarray:
    """Return the pixels of a mask `[H, W]`."""
    with opened_encoded(_bytes(values, "segmentation_mask")) as image:
        if image.mode not in ("L", "P", "1"):
            raise InputError(f"a mask in Pillow's mode {image.mode}; must be gray, of 8 bits")
        return np.asarray(image).astype(np.uint8)


def _pair(
    values: Mapping[str, Any], shape: tuple[int, int, int], form: Form, table: Mapping[Any, int], ignore: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image and the labels of a record."""
    encoded, pixels = _bytes(values, "image"), _mask(values)
    with opened_encoded(encoded) as image:
        stated_size(pixels, (image.height, image.width), "segmentation_mask")
    labels = labels_of(pixels, table, ignore, pathlib.PurePath("segmentation_mask"))
    return decode(encoded, shape, True, form.resize), resized(labels, form, ignore)
