"""Reads the image files of a set in one form: all at once into memory, or as needed, whole or by random crops."""

import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.checking import labelled
from jaxcnn.data.core import Indexed, OnBad, Resident, taken
from jaxcnn.data.crops import Sides, Training, check_ratio
from jaxcnn.data.image import Head, Resize, decode, head
from jaxcnn.data.image_file import without_warnings

LOOKED_AT = 32  # 16-bit images to check for how many of their bits are used
MODES = {1: "L", 3: "RGB"}
log = logging.getLogger("jaxcnn")


class Form(NamedTuple):
    """How images become rows of one shape.

    Attributes:
        size: height and width to which images are resized; None if they all have the same size.
        resize: how, see `jaxcnn.data.image.decode`.
        crop_ratio: see there.
        channels: 1 or 3; None for 1 if all images are gray, and 3 otherwise.

    """

    size: Sides | None
    resize: Resize = "squash"
    crop_ratio: float = 1.0
    channels: int | None = None


class Reader:
    """Decodes the images of a set to one shape `[height, width, channels]`, with one channel if all are gray.

    Args:
        files: all files of the set.
        form: how images become rows.
        on_bad: called with a message and a count for each unreadable image; None to raise.

    Raises:
        InputError: No image is readable, sizes differ and no size is given, or an option is out of range.

    """

    def __init__(self, files: list[pathlib.Path], form: Form, on_bad: OnBad | None) -> None:
        check_ratio(form.crop_ratio, form.resize)
        if form.channels not in (None, *MODES):
            raise InputError(f"channels={form.channels}: must be 1 or 3, or None to read it from the files")
        self.form, self.on_bad = form, on_bad
        self.bad: set[pathlib.Path] = set()
        self.heads: dict[pathlib.Path, Head] = {}
        if form.size is not None and form.channels is not None:
            self.size, self.mode = form.size, MODES[form.channels]
        else:
            self.mode, self.size = self.looked_at(files)

    def looked_at(self, files: list[pathlib.Path]) -> tuple[str, Sides]:
        """Read the headers of all files; return Pillow's mode and the size of the rows."""
        read = zip(files, each(self.guarded(head), files), strict=True)
        heads = [(file, found) for file, found in read if found is not None]
        self.heads = dict(heads)
        self.bad = set(files) - self.heads.keys()
        if not heads:
            raise InputError(f"{visible(files[0].parent.parent)}: no image is readable; replace them")
        gray = sum(found.gray for _, found in heads)
        if 0 < gray < len(heads) and self.form.channels is None:
            log.warning("%d gray images among %d: all are read as RGB", gray, len(heads))
        self.tell_dark([file for file, found in heads if found.deep])
        channels = self.form.channels or (1 if gray == len(heads) else 3)
        return MODES[channels], self.common_size(heads) if self.form.size is None else self.form.size

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

        each(look, some)
        if some and len(dark) == len(some):
            log.warning(
                "%d images have 16 bits, but in %d of them, which were checked, no value is above %d, of 65,535: they "
                "are read nearly black; scale them to 16 bits, or save them with 8",
                len(deep), len(some), max(dark),
            )  # fmt: skip

    def guarded(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `fn` as `guarded` does, with the `on_bad` of this reader."""
        return guarded(fn, self.on_bad)

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
        form = self.form
        image = decode(path, self.mode, form.size, resize=form.resize, crop_ratio=form.crop_ratio)
        if image.shape[:2] != self.size:  # its header is wrong, or the file was replaced
            raise InputError(
                f"{visible(path)}: {image.shape[:2]} pixels (height, width), not {self.size} as before; "
                "replace or remove it"
            )
        return image

    def data(
        self, root: pathlib.Path, files: list[pathlib.Path], label: np.ndarray, classes: tuple[str, ...],
        resident_bytes: int, top: pathlib.Path, key: str = "label", training: Training | None = None,
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
            training: how rows are read for training; None to read them as for evaluation.

        Raises:
            InputError: No image is readable.

        """
        names = tuple(relative(file, top) for file in files)
        shape = (*self.size, 1 if self.mode == "L" else 3)
        if training is None and len(files) * int(np.prod(shape)) <= resident_bytes:
            images, kept = _decoded(self.guarded(self.decode), files, shape)
            if not kept:
                raise InputError(f"{visible(root)}: no image is readable; replace them, or move the folder away")
            label, names = label[kept], taken(names, np.array(kept))
            if key != "label" or label.ndim > 1:
                return Resident({"image": images, key: label}, classes, names=names)
            return dataclasses.replace(labelled(images, label, classes, visible(root)), names=names)
        if training is None:
            mib = resident_bytes >> 20
            log.info("%d images are read as needed: decoded they take more than %d MiB", len(files), mib)

        def read(rows: np.ndarray) -> dict[str, np.ndarray]:
            return batch(rows, shape, each(self.guarded(self.decode), [files[i] for i in rows]))

        def batch(rows: np.ndarray, shape: tuple[int, ...], images: list[np.ndarray | None]) -> dict[str, np.ndarray]:
            stacked = np.stack([np.zeros(shape, np.uint8) if x is None else x for x in images])
            found = {"image": stacked, key: label[rows]}
            if self.on_bad is not None:
                found["row_mask"] = np.array([x is not None for x in images], np.float32)
            return found

        data = Indexed(read, len(files), classes, label=label if key == "label" else None, names=names)
        if training is None:
            return data

        def crop(path: pathlib.Path, seed: np.ndarray) -> np.ndarray:
            return decode(path, self.mode, training.size, window=training.window(seed))

        def read_train(rows: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
            return batch(rows, (*training.size, shape[-1]), each(self.guarded(crop), [files[i] for i in rows], seeds))

        return dataclasses.replace(data, read_train=read_train)


def relative(file: pathlib.Path, top: pathlib.Path) -> str:
    """Return the name of a row: its file, relative to the folder of the set if it is inside."""
    return file.relative_to(top).as_posix() if file.is_relative_to(top) else str(file)


def guarded(fn: Callable[..., Any], on_bad: OnBad | None, what: str = "images") -> Callable[..., Any]:
    """Wrap `fn` to call `on_bad` and return None for an unreadable file, or to raise if there is no `on_bad`."""

    def tried(*arguments: Any) -> Any:
        try:
            return fn(*arguments)
        except InputError as error:
            if on_bad is None:
                raise InputError(
                    f"{error}, or leave out unreadable {what} with on_bad= (--on-bad-example skip)"
                ) from error
            on_bad(str(error), 1)
            return None

    return tried


def _decoded(decode: Any, files: list[pathlib.Path], shape: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
    """Decode images in parallel; return those that are readable and their numbers."""
    images, kept = np.empty((len(files), *shape), np.uint8), []
    with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
        for i, image in enumerate(pool.map(decode, files)):
            if image is not None:
                images[len(kept)] = image
                kept.append(i)
    return images[: len(kept)], kept


def each(fn: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function in threads, as `map` does, and return the results; decoders give up Python's lock."""
    with without_warnings(), concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(fn, *arguments))
