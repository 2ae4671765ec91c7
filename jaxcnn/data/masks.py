"""Images with masks: a folder of images beside a folder of masks of the same names, or pairs of files."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, sides
from jaxcnn.data.image import Resize, head, turned
from jaxcnn.data.image_file import ENDINGS, opened_image, room
from jaxcnn.data.listing import TEST, TRAIN, VALID
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.pixel_labels import resized, rows, stated_size
from jaxcnn.data.reader import Form, Reader, each
from jaxcnn.data.splitting import parted

IMAGES, MASKS = ("images", "image", "imgs"), ("masks", "mask", "labels", "label", "annotations")
LOOKED_AT = 64  # masks to check for the values that they use, if the values are not given
Values = Sequence[int] | Sequence[Sequence[int]]
Pair = tuple[pathlib.Path, pathlib.Path]
log = logging.getLogger("jaxcnn")


def masks(
    path: str | pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    values: Values | None = None,
    ignore_label: int = 255,
    size: int | tuple[int, int] | None = None,
    resize: Resize = "squash",
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    group: str | None = None,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load images and their masks: `images/` beside `masks/`, alone or within `train/`, `val/` and `test/`.

    An image and its mask have the same name, but for the ending. Rows have `"image"` `[H, W, C]` and `"mask"` `[H, W]`.

    Args:
        path: the folder.
        classes: class names in order of label; by default the numbers from 0 to the largest value.
        values: the pixel value of each class, in order of label: gray values or indices of a palette, or colours
            `(r, g, b)`. By default a pixel's value is its class; masks of 0 and 255 alone have the classes 0 and 1.
        ignore_label: pixel value of pixels without a class, which it stays, 0..255.
        size: height and width to which everything is resized, or one number for both; required if sizes differ. Masks
            take the nearest pixel.
        resize: how, see `jaxcnn.data.image.decode`; `"pad"` surrounds masks with `ignore_label`.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if there is no folder for them.
        test_fraction: share of all rows to test on, if there is no folder for them.
        group: see `jaxcnn.data.voc`.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each pair that is not readable, which is then left out (or has
            `row_mask = 0` if rows are read as needed); None to raise.

    Returns:
        The parts; `names` of each has the files of its images, relative to `path`.

    Raises:
        InputError: The folders are not there, an image has no mask or a mask no image, a mask has another size than its
            image or a value that is no class, or a file is not readable and `on_bad` is None.

    """
    path = pathlib.Path(path)
    found = _parts(path)
    listed = {part: _pairs(root) for part, root in found.items()}
    read = _Pairs(
        [pair for pairs in listed.values() for pair in pairs],
        Form(sides(size), resize),
        classes,
        values,
        ignore_label,
        on_bad,
    )
    held = {part: read.data(pairs, resident_bytes, path) for part, pairs in listed.items()}
    splits = parted(held, seed, validation_fraction, test_fraction, group)
    tell_copies(splits, visible(path), top=path)
    return splits


def _parts(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return the folder of each part; all rows are training rows if there are no parts."""
    if not path.is_dir():
        raise InputError(f"{visible(path)}: {'not a' if path.exists() else 'no such'} folder")
    inside = {p.name.lower(): p for p in sorted(path.iterdir()) if p.is_dir()}
    if inside.keys() & set(IMAGES):
        return {"train": path}
    found = {
        part: next((inside[name] for name in names if name in inside), None)
        for part, names in (("train", TRAIN), ("valid", VALID), ("test", TEST))
    }
    if found["train"] is None:
        raise InputError(f"{visible(path)}: needs images/ beside masks/, or train/ with both inside")
    if found["test"] is None and found["valid"] is not None:
        found["test"], found["valid"] = found["valid"], None
        log.warning("%s: %s/ is the test part, because there is no test/", visible(path), found["test"].name)
    return {part: root for part, root in found.items() if root is not None}


def _pairs(root: pathlib.Path) -> list[Pair]:
    """Match images and masks by their names."""
    inside = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    places = [next((inside[name] for name in names if name in inside), None) for names in (IMAGES, MASKS)]
    if None in places:
        raise InputError(f"{visible(root)}: needs a folder images/ and a folder masks/ of the same names")
    by_name: list[dict[str, pathlib.Path]] = []
    for place in cast(list[pathlib.Path], places):
        files: dict[str, pathlib.Path] = {}
        for file in sorted(place.rglob("*")):
            if file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file():
                name = file.relative_to(place).with_suffix("").as_posix()
                if name in files:
                    raise InputError(f"{visible(file)}: {visible(files[name].name)} has the same name; remove one")
                files[name] = file
        by_name.append(files)
    images, labels = by_name
    for here, there, what in ((images, labels, "mask"), (labels, images, "image")):
        alone = sorted(here.keys() - there.keys())
        if alone:
            raise InputError(f"{visible(here[alone[0]])}: has no {what} ({len(alone)} such); add it, or remove this")
    if not images:
        raise InputError(f"{visible(root)}: no images; they end in .png, .jpg and the like")
    return [(images[name], labels[name]) for name in sorted(images)]


class _Pairs:
    """Decodes pairs of files to one shape and one set of classes."""

    def __init__(
        self,
        pairs: list[Pair],
        form: Form,
        classes: Sequence[str] | None,
        values: Values | None,
        ignore_label: int,
        on_bad: OnBad | None,
    ) -> None:
        if not 0 <= ignore_label <= 255:
            raise InputError(f"ignore_label={ignore_label}: must be in 0..255")
        self.images = Reader([image for image, _ in pairs], form, on_bad)
        self.form, self.ignore, self.on_bad = form, ignore_label, on_bad
        used = self._found([mask for _, mask in pairs], classes) if values is None else values
        self.table = value_table(used, ignore_label)
        count = len(self.table)
        self.classes = tuple(classes) if classes is not None else tuple(map(str, range(count)))
        if len(self.classes) != count or count < 2:
            raise InputError(f"classes={self.classes}: {len(self.classes)} names for {count} values; give one for each")

    def _found(self, files: list[pathlib.Path], classes: Sequence[str] | None) -> list[int]:
        """Return the values of the classes: those of the names, or those that masks have."""
        some = files if classes is None else files[:: -(-len(files) // LOOKED_AT)]
        used = {int(v) for mask in each(self.images.guarded(self._values), some) if mask is not None for v in mask}
        if used <= {0, 255} and 255 in used and (classes is None or len(classes) == 2):
            log.info("the masks have the values 0 and 255: these are the classes 0 and 1")
            return [0, 255]
        used -= {self.ignore}
        if classes is None and used and 2 * len(used) < max(used) + 1:
            some = ", ".join(map(str, sorted(used)[:10]))
            raise InputError(
                f"the masks have the values {some}, and most values in between never occur: give values=, the "
                "value of each class, or number the classes 0, 1, 2"
            )
        return list(range(len(classes) if classes is not None else max(used, default=0) + 1))

    def _values(self, path: pathlib.Path) -> np.ndarray:
        pixels = _pixels(path)
        if pixels.ndim == 3:
            raise InputError(f"{visible(path)}: a mask of colours; give values=, the colour (r, g, b) of each class")
        return np.unique(pixels)

    def row(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return an image `[H, W, C]` and its mask `[H, W]`, uint8."""
        image, (path, mask) = self.images.decode(pair[0]), pair
        pixels = _pixels(mask)
        stated_size(pixels, head(path).size, visible(mask))
        return image, resized(labels_of(pixels, self.table, self.ignore, mask), self.form, self.ignore)

    def data(self, pairs: list[Pair], resident_bytes: int, top: pathlib.Path) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit; otherwise read them as needed."""
        pairs = [pair for pair in pairs if pair[0] not in self.images.bad]
        names = tuple(image.relative_to(top).as_posix() for image, _ in pairs)
        shape = (*self.images.size, 1 if self.images.mode == "L" else 3)
        return rows(self.row, pairs, shape, self.ignore, self.classes, names, resident_bytes, self.on_bad, top)


def value_table(values: Values, ignore_label: int) -> dict[Any, int]:
    """Return a dict from the value or colour of a pixel to its class."""
    try:
        given: Any = np.asarray(values)
    except ValueError:  # of several lengths
        given = np.zeros(0)
    whole = given.dtype.kind in "iu" and given.size and given.min() >= 0 and given.max() <= 255
    table = {tuple(v) if isinstance(v, list) else v: i for i, v in enumerate(given.tolist())}
    if not whole or len(table) < len(given) or not (given.ndim == 1 or given.ndim == 2 and given.shape[1] == 3):
        raise InputError(f"values={list(values)[:10]}: must be different gray values 0..255, or colours (r, g, b)")
    if ignore_label < len(table):
        raise InputError(f"ignore_label={ignore_label}: is the label of a class, 0 to {len(table) - 1}; use another")
    return table


def _pixels(path: pathlib.Path) -> np.ndarray:
    """Read a mask: values of gray or of a palette `[H, W]`, or colours `[H, W, 3]`."""
    with opened_image(path, pixels=True) as (image, turn), room(image):
        if image.format == "JPEG":
            raise InputError(f"{visible(path)}: JPEG compression changes the values of a mask; save it as PNG")
        image = image if image.format == "TIFF" else turned(image, turn)  # Pillow turns a TIFF when it loads it
        if image.mode in ("L", "P"):
            return np.asarray(image)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I"):
            deep = np.asarray(image)
            if deep.max(initial=0) > 255:
                raise InputError(f"{visible(path)}: a mask with the value {deep.max()}; values may be 0 to 255")
            return deep.astype(np.uint8)
        return np.asarray(image.convert("RGB"))


def labels_of(pixels: np.ndarray, table: Mapping[Any, int], ignore: int, path: pathlib.PurePath) -> np.ndarray:
    """Return the class of each pixel, uint8; refuse a value that is no class."""
    colours = isinstance(next(iter(table)), tuple)
    if colours != (pixels.ndim == 3):
        kinds = ("gray values or a palette", "colours")
        raise InputError(f"{visible(path)}: a mask of {kinds[pixels.ndim == 3]}, but values= has {kinds[colours]}")
    codes = pixels.astype(np.int32) @ np.array([65536, 256, 1]) if colours else pixels.astype(np.int32)
    known = {(v[0] << 16 | v[1] << 8 | v[2] if colours else v): label for v, label in table.items()}
    if not colours:
        known.setdefault(ignore, ignore)
    found, place = np.unique(codes, return_inverse=True)
    wrong = [int(v) for v in found if int(v) not in known]
    if wrong:
        value = f"({wrong[0] >> 16}, {wrong[0] >> 8 & 255}, {wrong[0] & 255})" if colours else str(wrong[0])
        raise InputError(f"{visible(path)}: the value {value} is no class; correct it, or give values= or classes=")
    return np.array([known[int(v)] for v in found], np.uint8)[place].reshape(codes.shape)
