"""A folder of images: `train/<class>/*` beside `test/<class>/*`, or just `<class>/*` with a seeded split."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import listing
from jaxcnn.data.checking import labelled
from jaxcnn.data.core import Indexed, OnBad, Resident, Splits, sides, taken
from jaxcnn.data.image import Head, Resize, decode, head
from jaxcnn.data.image_file import ENDINGS, without_warnings
from jaxcnn.data.parts import tell_copies, tell_same_files
from jaxcnn.data.splitting import cut

LOOKED_AT = 32  # 16-bit images to check for how many of their bits are used
log = logging.getLogger("jaxcnn")
_decode = decode

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

    Returns:
        The parts; `names` of each has the files of its rows, relative to `path`.

    Raises:
        InputError: There is no class or one class, sizes differ, one file is in two classes, or an image is unreadable
            and `on_bad` is None.

    """
    path, size = pathlib.Path(path), sides(size)
    left: collections.Counter[str] = collections.Counter()
    parts = listing.parts(path, left)
    names = listing.classes(parts["train"], classes)
    listing.check_counterparts(parts)
    found = {part: listing.images(root, names, (path, *parts.values()), left) for part, root in parts.items()}
    listing.tell_left_out(path, left)
    listing.tell_parts(path, parts)
    listed = {part: (list(files), np.array(list(files.values()), np.int32)) for part, files in found.items()}
    reader = Reader([file for files, _ in listed.values() for file in files], size, on_bad, resize)
    listed = {part: reader.readable(files, label) for part, (files, label) in listed.items()}
    held = {
        part: reader.data(parts[part], files, label, names, resident_bytes, path)
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
    tell_copies(splits, visible(path))
    if not all(isinstance(part, Resident) for part in held.values()):
        tell_same_files(found, visible(path))
    return splits


def class_names(path: str | pathlib.Path) -> tuple[str, ...]:
    """Return the names of the classes that `folder` finds, in order of label."""
    return listing.classes(listing.parts(pathlib.Path(path), collections.Counter())["train"], None)


class Reader:
    """Decodes the images of a set to one shape `[height, width, channels]`, with one channel if all are gray.

    Args:
        files: all files of the set.
        size: height and width to which images are resized; None if they all have the same size.
        on_bad: called with a message and a count for each unreadable image; None to raise.
        resize: how images are resized, see `jaxcnn.data.image.decode`.

    Raises:
        InputError: No image is readable, or sizes differ and `size` is None.

    """

    def __init__(
        self, files: list[pathlib.Path], size: tuple[int, int] | None, on_bad: OnBad | None, resize: Resize = "squash"
    ) -> None:
        self.resize: Resize = resize
        self.bad: set[pathlib.Path] = set()
        self.resized, self.on_bad = size is not None, on_bad
        read = zip(files, _each(self.guarded(head), files), strict=True)
        heads = [(file, found) for file, found in read if found is not None]
        self.bad = set(files) - {file for file, _ in heads}
        if not heads:
            raise InputError(f"{visible(files[0].parent.parent)}: no image is readable; replace them")
        gray = sum(found.gray for _, found in heads)
        self.mode = "L" if gray == len(heads) else "RGB"
        if 0 < gray < len(heads):
            log.warning("%d gray images among %d: all are read as RGB", gray, len(heads))
        self.tell_dark([file for file, found in heads if found.deep])
        self.size: tuple[int, int] = self.common_size(heads) if size is None else size

    def common_size(self, heads: list[tuple[pathlib.Path, Head]]) -> tuple[int, int]:
        """Return the size of all images, or raise if sizes differ."""
        (first, (_, size, *_)), *_ = heads
        other = next(((file, found.size) for file, found in heads if found.size != size), None)
        if other is not None:
            raise InputError(
                f"{visible(other[0])}: {other[1]} pixels (height, width), but {visible(first.name)} has {size}; "
                "give an image size to resize them to, such as size=64 (--image-size 64)"
            )
        return size

    def tell_dark(self, deep: list[pathlib.Path]) -> None:
        """Log a warning if 16-bit images use fewer bits: they are shown, and read, nearly black."""
        some, dark = deep[:: -(-len(deep) // LOOKED_AT) or 1], []

        def look(file: pathlib.Path) -> None:
            with contextlib.suppress(InputError):  # reported when the image is read
                decode(file, "L", None, dark.append)

        _each(look, some)
        if some and len(dark) == len(some):
            log.warning(
                "%d images have 16 bits, but in %d of them, which were checked, no value is above %d, of 65,535: they "
                "are read nearly black; scale them to 16 bits, or save them with 8",
                len(deep), len(some), max(dark),
            )  # fmt: skip

    def guarded(self, fn: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], Any]:
        """Wrap `fn` to call `on_bad` and return None for an unreadable file, or to raise if there is no `on_bad`."""

        def tried(file: pathlib.Path) -> Any:
            try:
                return fn(file)
            except InputError as error:
                if self.on_bad is None:
                    raise InputError(
                        f"{error}, or leave out unreadable images with on_bad= (--on-bad-example skip)"
                    ) from error
                self.on_bad(str(error), 1)
                return None

        return tried

    def readable(self, files: list[pathlib.Path], label: np.ndarray) -> tuple[list[pathlib.Path], np.ndarray]:
        """Leave out the files whose header could not be read.

        Args:
            files: the files.
            label: their labels.

        """
        good = [i for i, file in enumerate(files) if file not in self.bad]
        return [files[i] for i in good], label[good]

    def decode(self, path: pathlib.Path) -> np.ndarray:
        """Return one image, `[H, W, C]` uint8."""
        image = _decode(path, self.mode, self.size if self.resized else None, resize=self.resize)
        if image.shape[:2] != self.size:  # its header is wrong, or the file was replaced
            raise InputError(
                f"{visible(path)}: {image.shape[:2]} pixels (height, width), not {self.size} as before; "
                "replace or remove it"
            )
        return image

    def data(
        self, root: pathlib.Path, files: list[pathlib.Path], label: np.ndarray, classes: tuple[str, ...],
        resident_bytes: int, top: pathlib.Path, key: str = "label",
    ) -> Resident | Indexed:  # fmt: skip
        """Hold the rows of a part in memory if they fit; otherwise read them as needed.

        Args:
            root: folder of the part, for messages.
            files: its files.
            label: their labels or targets.
            classes: class names in order of label.
            resident_bytes: most decoded bytes to hold in memory.
            top: folder that the names of the rows are relative to.
            key: name of the array for `label`.

        Raises:
            InputError: No image is readable.

        """
        names = tuple(file.relative_to(top).as_posix() if file.is_relative_to(top) else str(file) for file in files)
        shape, decode = (*self.size, 1 if self.mode == "L" else 3), self.guarded(self.decode)
        if len(files) * int(np.prod(shape)) <= resident_bytes:
            images, kept = _decoded(decode, files, shape)
            if not kept:
                raise InputError(f"{visible(root)}: no image is readable; replace them, or move the folder away")
            label, names = label[kept], taken(names, np.array(kept))
            if key != "label" or label.ndim > 1:
                return Resident({"image": images, key: label}, classes, names=names)
            return dataclasses.replace(labelled(images, label, classes, visible(root)), names=names)
        mib = resident_bytes >> 20
        log.info("%d images are read as needed: decoded they take more than %d MiB", len(files), mib)

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            images = _each(decode, [files[i] for i in rows])
            stacked = np.stack([np.zeros(shape, np.uint8) if x is None else x for x in images])
            batch = {"image": stacked, key: label[rows]}
            if self.on_bad is not None:
                batch["row_mask"] = np.array([x is not None for x in images], np.float32)
            return batch

        return Indexed(read, len(files), classes, label=label if key == "label" else None, names=names)


def _decoded(decode: Any, files: list[pathlib.Path], shape: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """Decode images in parallel; return those that are readable and their numbers."""
    images, kept = np.empty((len(files), *shape), np.uint8), []
    with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
        for i, image in enumerate(pool.map(decode, files)):
            if image is not None:
                images[len(kept)] = image
                kept.append(i)
    return images[: len(kept)], kept


def read_image(
    path: str | pathlib.Path, channels: int, size: tuple[int, int] | None = None, resize: Resize = "squash"
) -> np.ndarray:
    """Read one image for a model, as a viewer shows it, see `jaxcnn.data.image.decode`.

    Args:
        path: path of the file.
        channels: 1 for gray; otherwise RGB.
        size: height and width to which the image is resized; None to keep its size.
        resize: how the image is resized.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        InputError: The file is not a readable image.

    """
    path = pathlib.Path(path)

    def tell(top: int) -> None:
        log.warning("%s: 16 bits, but no value above %d, of 65,535: it is read nearly black", visible(path), top)

    return decode(path, "L" if channels == 1 else "RGB", size, tell, resize)


def _each(fn: Any, files: list[pathlib.Path]) -> list[Any]:
    with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(fn, files))
