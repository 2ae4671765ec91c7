"""A folder of images: `train/<class>/*` beside `test/<class>/*`, or just `<class>/*` with a seeded split."""

import collections
import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxcnn.core.files import Memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import crops, listing
from jaxcnn.data.core import OnBad, Splits, sides
from jaxcnn.data.image import Resize, decode
from jaxcnn.data.image_file import ENDINGS
from jaxcnn.data.parts import tell_copies
from jaxcnn.data.reader import Form, Reader
from jaxcnn.data.splitting import cut

log = logging.getLogger("jaxcnn")

__all__ = ["ENDINGS", "class_names", "folder", "read_image"]


def folder(
    path: str | pathlib.Path,
    *,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    resident_bytes: int = 2**30,
    on_bad: OnBad | None = None,
    resize: Resize = "squash",
    crop_ratio: float = 1.0,
    random_crop: tuple[float, float] | None = None,
    train_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Splits:
    """Load images from one folder per class; the folder's name is the class, and labels follow the sorted names.

    Folders `train` and `test` are these parts, and `val`, `valid` or `validation` is the validation part. Without
    `test`, the validation folder is the test part, and validation rows are split from `train`. If there are only class
    folders, both parts are split from them.

    Images are read as a viewer shows them: the EXIF orientation is applied, and transparent pixels are put on white.
    Hidden files and folders are ignored. Links are followed, and each real file is read once. The log lists what was
    left out, by file name extension.

    Args:
        path: the folder.
        classes: use only these classes, in this order.
        size: height and width, or one number for both, to which every image is resized; required if sizes differ.
        seed: seed of the stratified splits.
        validation_fraction: share of the training rows to validate on, if there is no folder for them.
        test_fraction: share of all rows to test on, if there is no folder for them.
        resident_bytes: sets with more decoded bytes are read as needed instead of being held in memory.
        on_bad: called with a message and a count for each unreadable image, which is then left out; None to raise.
            If the image's header is damaged, or the rows are held in memory, the image is left out before splitting;
            otherwise its row has `row_mask = 0`, and `on_bad` is called each time it is read.
        resize: how images are resized, see `jaxcnn.data.image.decode`.
        crop_ratio: with `resize="crop"`, the share of the sides of the largest central rectangle that is shown.
        random_crop: smallest and largest share of an image's area, such as `(0.08, 1)`. Each time a row is read for
            training, a random rectangle with such an area and a width of 3/4 to 4/3 of its height is resized instead of
            the whole image, as in torchvision's `RandomResizedCrop`; evaluation is not affected. The rows are read as
            needed.
        train_size: height and width of random crops, or one number for both; by default `size`.
        channels: 1 for gray, 3 for RGB; by default found in the headers of all files. With `size` as well, files are
            not opened before their rows are needed, which starts large sets sooner.

    Returns:
        The parts; `names` of each has the files of its rows, relative to `path`.

    Raises:
        InputError: There is no class or one class, sizes differ, one file is in two classes, or an image is unreadable
            and `on_bad` is None.

    """
    path, size = pathlib.Path(path), sides(size)
    drawn = crops.training(size, sides(train_size), random_crop)
    left: collections.Counter[str] = collections.Counter()
    parts = listing.parts(path, left)
    names = listing.classes(parts["train"], classes)
    listing.check_counterparts(parts)
    found = {part: listing.images(root, names, (path, *parts.values()), left) for part, root in parts.items()}
    listing.tell_left_out(path, left)
    if validation_fraction or test_fraction:
        listing.tell_parts(path, parts)
    listed = {part: (list(files), np.array(list(files.values()), np.int32)) for part, files in found.items()}
    how = Form(size, resize, crop_ratio, channels)
    reader = Reader([file for files, _ in listed.values() for file in files], how, on_bad)
    listed = {part: reader.readable(files, label) for part, (files, label) in listed.items()}
    held = {
        part: reader.data(
            parts[part], files, label, names, resident_bytes, path, training=drawn if part == "train" else None
        )
        for part, (files, label) in listed.items()
    }
    train, label = held["train"], np.asarray(held["train"].label)
    lost = sorted(set(range(len(names))) - set(label.tolist()))
    if lost:
        raise InputError(
            f"{visible(parts['train'] / names[lost[0]])}: no image is readable; replace them, or leave the class out "
            "with classes="
        )
    if "test" not in held:
        train, held["test"], label = cut(train, label, test_fraction, seed, "test_fraction")
    if "valid" not in held:
        train, held["valid"], _ = cut(train, label, validation_fraction, seed)
    splits = Splits(train, held["valid"], held["test"])
    tell_copies(splits, visible(path), top=path)
    return splits


def class_names(path: str | pathlib.Path) -> tuple[str, ...]:
    """Return the names of the classes that `folder` finds, in order of label."""
    return listing.classes(listing.parts(pathlib.Path(path), collections.Counter())["train"], None)


def read_image(
    path: str | pathlib.Path | Memory, channels: int, size: tuple[int, int] | None = None, resize: Resize = "squash",
    crop_ratio: float = 1.0,
) -> np.ndarray:  # fmt: skip
    """Read one image for a model, as a viewer shows it, see `jaxcnn.data.image.decode`.

    Args:
        path: path of the file, or a file in memory.
        channels: 1 for gray; otherwise RGB.
        size: height and width to which the image is resized; None to keep its size.
        resize: how the image is resized.
        crop_ratio: with `"crop"`, the share of the sides of the largest central rectangle.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        InputError: The file is not a readable image.

    """
    path = path if isinstance(path, Memory) else pathlib.Path(path)

    def tell(top: int) -> None:
        log.warning("%s: 16 bits, but no value above %d, of 65,535: it is read nearly black", visible(path), top)

    return decode(path, "L" if channels == 1 else "RGB", size, tell, resize, crop_ratio)
