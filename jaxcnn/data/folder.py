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

LOOKED_AT = 32  # images, to see how many of their bits are used
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
    """Images in one folder per class; the class is the folder's name, and labels follow the sorted names.

    With `train` and `test` folders these are the parts, and `val`, `valid` or `validation` is the validation part.
    Without `test`, that folder is the test part and validation rows are cut from `train`. With class folders alone,
    both are cut.

    Images are read as a viewer shows them: an EXIF orientation is applied, and transparent pixels are laid on white.
    Hidden files and folders are not read. Links are followed, and each real file is read once. The log tells what else
    was left out, by ending.

    Args:
        path: the folder.
        classes: use only these classes, in this order.
        size: resize every image on reading, one number or height and width; needed where sizes differ.
        seed: of the splits, which are stratified.
        validation_fraction: share of the training rows to validate on, where no folder says which.
        test_fraction: share of all rows to test on, likewise.
        resident_bytes: decoded sets larger than this are read when needed instead of held in memory.
        on_bad: called with a line and a number for images that cannot be read, which are then left out: before
            splitting where an image's head shows it or rows are held in memory, otherwise as a row of `row_mask = 0`
            whenever it is read.
        resize: how images are brought to `size`, see `jaxcnn.data.image.decode`.

    Returns:
        The parts; `names` of each has the files of its rows, below `path`.

    Raises:
        InputError: there are fewer than two classes, sizes differ, one file is in two classes, or an image is
            unreadable and `on_bad` is None.

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
        folder_lost = visible(parts["train"] / names[lost[0]])
        raise InputError(f"{folder_lost}: no image is readable; replace them, or leave the class out with classes=")
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
    """Names of the classes that `folder` finds, in order of label."""
    return listing.classes(listing.parts(pathlib.Path(path), collections.Counter())["train"], None)


class Reader:
    """Decodes files of one set to one shape: `[height, width, channels]`, gray only if all are."""

    def __init__(
        self, files: list[pathlib.Path], size: tuple[int, int] | None, on_bad: OnBad | None, resize: Resize = "squash"
    ) -> None:
        self.resize: Resize = resize
        self.bad: set[pathlib.Path] = set()
        self.resized, self.on_bad = size is not None, on_bad
        heads = [
            (file, found)
            for file, found in zip(files, _each(self.guarded(head), files), strict=True)
            if found is not None
        ]
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
        """Return the size that all images have."""
        (first, (_, size, *_)), *_ = heads
        other = next(((file, found.size) for file, found in heads if found.size != size), None)
        if other is not None:
            raise InputError(
                f"{visible(other[0])}: {other[1]} pixels (height, width), but {visible(first.name)} has {size}; "
                "give an image size to bring them all to, such as size=64 (--image-size 64)"
            )
        return size

    def tell_dark(self, deep: list[pathlib.Path]) -> None:
        """Tell that images with room for 16 bits use fewer: they are shown, and read, nearly black."""
        some, dark = deep[:: -(-len(deep) // LOOKED_AT) or 1], []

        def look(file: pathlib.Path) -> None:
            with contextlib.suppress(InputError):  # told when it is read
                decode(file, "L", None, dark.append)

        _each(look, some)
        if some and len(dark) == len(some):
            log.warning(
                "%d images have 16 bits, and those looked at (%d) no value above %d, of 65,535: they are nearly black "
                "as read; scale them to 16 bits, or save them with 8",
                len(deep), len(some), max(dark),
            )  # fmt: skip

    def guarded(self, fn: Callable[[pathlib.Path], Any]) -> Callable[[pathlib.Path], Any]:
        """Make `fn` give None, and tell `on_bad`, where a file is unreadable; without `on_bad` it raises."""

        def tried(file: pathlib.Path) -> Any:
            try:
                return fn(file)
            except InputError as error:
                if self.on_bad is None:
                    raise InputError(
                        f"{error}, or leave out what cannot be read, with on_bad= (--on-bad-example skip)"
                    ) from error
                self.on_bad(str(error), 1)
                return None

        return tried

    def readable(self, files: list[pathlib.Path], label: np.ndarray) -> tuple[list[pathlib.Path], np.ndarray]:
        """Leave out the files whose head could not be read."""
        good = [i for i, file in enumerate(files) if file not in self.bad]
        return [files[i] for i in good], label[good]

    def decode(self, path: pathlib.Path) -> np.ndarray:
        """Return one image, `[H, W, C]` uint8."""
        image = _decode(path, self.mode, self.size if self.resized else None, resize=self.resize)
        if image.shape[:2] != self.size:  # its head is wrong, or it was written anew
            found = f"{image.shape[:2]} pixels (height, width), not {self.size} as before"
            raise InputError(f"{visible(path)}: {found}; replace or remove it")
        return image

    def data(
        self,
        root: pathlib.Path,
        files: list[pathlib.Path],
        label: np.ndarray,
        classes: tuple[str, ...],
        resident_bytes: int,
        top: pathlib.Path,
        key: str = "label",
    ) -> Resident | Indexed:
        """Hold the rows of a part in memory if they fit, else read them when they are needed.

        Args:
            root: of the part, for messages.
            files: of the rows.
            label: of the rows.
            classes: names of the classes.
            resident_bytes: decoded rows that take more than this are read when they are needed.
            top: the folder that the names of the rows are relative to.
            key: what a batch calls the label.

        Raises:
            InputError: no image is readable, or one is not and `on_bad` is None.

        """
        names = tuple(file.relative_to(top).as_posix() if file.is_relative_to(top) else str(file) for file in files)
        shape, decode = (*self.size, 1 if self.mode == "L" else 3), self.guarded(self.decode)
        if len(files) * int(np.prod(shape)) <= resident_bytes:
            images, kept = np.empty((len(files), *shape), np.uint8), []
            with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
                for i, image in enumerate(pool.map(decode, files)):
                    if image is not None:
                        images[len(kept)] = image
                        kept.append(i)
            if not kept:
                raise InputError(f"{visible(root)}: no image is readable; replace them, or move the folder away")
            images, label, names = images[: len(kept)], label[kept], taken(names, np.array(kept))
            if key != "label" or label.ndim > 1:
                return Resident({"image": images, key: label}, classes, names=names)
            return dataclasses.replace(labelled(images, label, classes, visible(root)), names=names)
        log.info(
            "%d images are read when they are needed: decoded they take more than %d MiB",
            len(files),
            resident_bytes >> 20,
        )

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            images = _each(decode, [files[i] for i in rows])
            batch = {
                "image": np.stack([np.zeros(shape, np.uint8) if x is None else x for x in images]),
                key: label[rows],
            }
            return (
                batch
                if self.on_bad is None
                else batch | {"row_mask": np.array([x is not None for x in images], np.float32)}
            )

        return Indexed(read, len(files), classes, label=label if key == "label" else None, names=names)


def read_image(
    path: str | pathlib.Path, channels: int, size: tuple[int, int] | None = None, resize: Resize = "squash"
) -> np.ndarray:
    """Read one image as a model wants it, `[H, W, C]` uint8, and as a viewer shows it, see `jaxcnn.data.image.decode`.

    Args:
        path: of the file.
        channels: 1 for gray, else RGB.
        size: height and width to bring it to; None for its own.
        resize: how, see `decode`.

    Raises:
        InputError: not a readable image.

    """
    path = pathlib.Path(path)

    def tell(top: int) -> None:
        log.warning("%s: 16 bits, and no value above %d, of 65,535: it is nearly black as read", visible(path), top)

    return decode(path, "L" if channels == 1 else "RGB", size, tell, resize)


def _each(fn: Any, files: list[pathlib.Path]) -> list[Any]:
    with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(fn, files))
